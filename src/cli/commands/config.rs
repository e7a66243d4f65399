//! `ostler config`

use std::{
    fs::{self, File},
    io::{self, Write as _},
    path::Path,
};

use serde_json::json;

use crate::cli::{
    Configuration, Host,
    args::ConfigCommand,
    failure::{Exit, Failure},
    output::{Cell, Output, Tone},
};

pub(in crate::cli) fn run(out: Output, host: &dyn Host, command: ConfigCommand) -> Result<u8, Failure> {
    match command {
        ConfigCommand::Show => show(out, host),
        ConfigCommand::Init => init(out, host),
        ConfigCommand::Check => check(out, host),
    }
}

fn show(out: Output, host: &dyn Host) -> Result<u8, Failure> {
    let configuration = host.configuration()?;
    if out.json() {
        out.value(&configuration)?;
        return Ok(0);
    }
    out.line(&origin(host, &configuration))?;
    out.line("")?;
    let rows = configuration.settings.into_iter().map(|setting| {
        let changed = setting.source != "default";
        let value = match setting.value {
            Some(value) => Cell::from(value.replace('\n', "\\n")),
            None => Cell::toned(Tone::Dim, "-"),
        };
        let source = Cell::toned(if changed { Tone::Good } else { Tone::Dim }, setting.source);
        [setting.key.into(), value, source]
    });
    out.table(["KEY", "VALUE", "FROM"], rows.collect())?;
    Ok(0)
}

fn origin(host: &dyn Host, configuration: &Configuration) -> String {
    match &configuration.file {
        Some(file) => format!("file: {}", file.display()),
        None => format!("file: none ({} does not exist)", host.config_file().display()),
    }
}

fn check(out: Output, host: &dyn Host) -> Result<u8, Failure> {
    let configuration = host.configuration()?;
    if out.json() {
        out.value(&json!({ "ok": true, "file": configuration.file }))?;
    } else {
        out.line(&format!("ok, {}", origin(host, &configuration)))?;
    }
    Ok(0)
}

fn init(out: Output, host: &dyn Host) -> Result<u8, Failure> {
    let path = host.config_file();
    match write_new(&path, &host.config_template()) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            let why = format!("{} exists already and was left as it is", path.display());
            let next = "move it away first, or choose another place with `--config FILE`";
            return Err(Failure::new(Exit::Conflict, why).next(next));
        }
        Err(error) => {
            return Err(anyhow::Error::new(error)
                .context(format!("{} cannot be written", path.display()))
                .into());
        }
    }
    if out.json() {
        out.value(&json!({ "file": path }))?;
    } else {
        out.line(&format!("wrote {}", path.display()))?;
    }
    Ok(0)
}

/// Never over a file that exists, not even one that appears this very moment.
fn write_new(path: &Path, text: &str) -> io::Result<()> {
    if let Some(directory) = path.parent() {
        fs::create_dir_all(directory)?;
    }
    let mut file = File::options().write(true).create_new(true).open(path)?;
    file.write_all(text.as_bytes())
}
