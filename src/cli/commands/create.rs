//! `ostler create`

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use anyhow::Context as _;

use crate::{
    api::{Connection, CreateWorkspace, CreatedWorkspace},
    cli::{
        Session,
        args::CreateArgs,
        failure::{Exit, Failure},
        output, spinner,
        text::printable,
    },
};

use super::order;

pub(in crate::cli) async fn run(session: &Session<'_>, args: CreateArgs) -> Result<u8, Failure> {
    let wait = !args.no_wait;
    let mut created: CreatedWorkspace = session.client.post("/workspaces", &request(args)?).await?;
    let mut failure = None;
    let mut place = String::new();
    if wait && !created.external {
        let view = spinner::until_settled(session, &created.id, &created.name).await?;
        created.status.clone_from(&view.status);
        failure = order::not_up(&view);
        place = view.url.map(|url| format!(" at {url}")).unwrap_or_default();
    }
    if session.out.json() {
        session.out.value(&created)?;
    } else if failure.is_none() {
        order::tell(session, &created.name, &created.status, &place)?;
        for note in &created.notes {
            output::note(&printable(note));
        }
        if let Some(connection) = &created.connection {
            show_connection(session, connection)?;
        }
    }
    failure.map_or(Ok(0), Err)
}

fn show_connection(session: &Session<'_>, connection: &Connection) -> Result<(), Failure> {
    let Connection { workspace_id, platform_url, auth_token, registry_endpoint, heartbeat_endpoint } =
        connection;
    for (key, value) in [
        ("workspace_id", workspace_id),
        ("platform_url", platform_url),
        ("auth_token", auth_token),
        ("registry_endpoint", registry_endpoint),
        ("heartbeat_endpoint", heartbeat_endpoint),
    ] {
        session.out.line(&format!("  {key:<18}  {value}"))?;
    }
    output::note("Keep the token: it is shown this once.");
    Ok(())
}

fn request(args: CreateArgs) -> Result<CreateWorkspace, Failure> {
    let CreateArgs {
        name,
        image,
        parent,
        role,
        runtime,
        tier,
        env,
        env_file,
        dir,
        config_file,
        external,
        url,
        sleep_after,
        max_tasks,
        restart_when_wedged,
        no_wait: _,
        command,
    } = args;
    let mut variables = BTreeMap::new();
    if let Some(file) = env_file {
        variables.extend(read_env_file(&file)?);
    }
    variables.extend(environment(&env)?);
    let (workspace_dir, workspace_access) = dir.map(|dir| directory(&dir)).transpose()?.unzip();
    let config = config_file.map(|file| read(&file)).transpose()?;
    Ok(CreateWorkspace {
        name,
        role,
        runtime,
        image,
        command,
        tier,
        parent_id: parent,
        external,
        url,
        workspace_dir,
        workspace_access,
        env: variables,
        config,
        hibernation_idle_minutes: sleep_after,
        max_concurrent_tasks: max_tasks,
        restart_when_wedged,
    })
}

fn wrong(error: anyhow::Error) -> Failure {
    Failure::from_error(Exit::Usage, error)
}

fn read(file: &Path) -> Result<String, Failure> {
    fs::read_to_string(file).with_context(|| format!("{} cannot be read", file.display())).map_err(wrong)
}

/// `KEY=VALUE`, or `KEY` for this environment's value: a secret needs not stand in the shell's history.
pub(super) fn environment(given: &[String]) -> Result<Vec<(String, String)>, Failure> {
    given.iter().map(|one| variable(one)).collect()
}

fn variable(given: &str) -> Result<(String, String), Failure> {
    let (key, value) = match given.split_once('=') {
        Some((key, value)) => (key, value.to_owned()),
        None => (given, inherited(given)?),
    };
    if key.is_empty() {
        return Err(Failure::new(Exit::Usage, "--env: a variable needs a name before its `=`"));
    }
    Ok((key.to_owned(), value))
}

fn inherited(key: &str) -> Result<String, Failure> {
    std::env::var(key).map_err(|_| {
        let why = format!("--env {key}: this environment has no text of that name");
        Failure::new(Exit::Usage, why).next(format!("give it a value: --env {key}=VALUE"))
    })
}

/// Lines of `KEY=VALUE`; empty ones and those that begin with `#` do not count. Values are taken as they
/// stand, without the quotes a shell would need. A refusal never repeats a value.
fn read_env_file(file: &Path) -> Result<Vec<(String, String)>, Failure> {
    let mut variables = Vec::new();
    for (index, line) in read(file)?.lines().enumerate() {
        let line = line.trim_start();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        match line.split_once('=') {
            Some((key, value)) if !key.trim().is_empty() => {
                variables.push((key.trim().to_owned(), value.to_owned()));
            }
            Some(_) | None => {
                let why = format!("{}:{}: expected KEY=VALUE", file.display(), index + 1);
                return Err(Failure::new(Exit::Usage, why));
            }
        }
    }
    Ok(variables)
}

/// `PATH`, `PATH:ro` or `PATH:rw`, made absolute: the daemon has another working directory.
fn directory(given: &str) -> Result<(String, String), Failure> {
    let (path, access) = match given.rsplit_once(':') {
        Some((path, "ro")) => (path, "read_only"),
        Some((path, "rw")) => (path, "read_write"),
        Some(_) | None => (given, "read_write"),
    };
    let found = fs::canonicalize(path).with_context(|| format!("--dir {path} cannot be used"));
    let found: PathBuf = found.map_err(wrong)?;
    if !found.is_dir() {
        return Err(Failure::new(Exit::Usage, format!("--dir {path} is no directory")));
    }
    match found.into_os_string().into_string() {
        Ok(path) => Ok((path, access.to_owned())),
        Err(_) => {
            Err(Failure::new(Exit::Usage, format!("--dir {path}: only names in UTF-8 can be passed on")))
        }
    }
}
