//! Reads the keys of a TOML file.

use std::path::Path;

use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

use super::{
    advice::{advice, runtime_advice},
    keys::{KEYS, RUNTIME_KEYS, check_runtime_name, is_section},
    load::Loading,
    origin::Origin,
};
use crate::domain::runtime::Runtime;

impl Loading {
    pub(super) fn file(&mut self, path: &Path, text: &str) {
        let file = File { path, text };
        match DeTable::parse(text) {
            Ok(document) => self.table("", document.get_ref(), &file),
            Err(error) => {
                let span = error.span().unwrap_or_default();
                // The text at the error is added to the message. In a long file, `duplicate key` alone would not be
                // enough to find the key.
                let what = match text.get(span.clone()).map(str::trim) {
                    Some(found) if !found.is_empty() && !found.contains('\n') => format!(": `{found}`"),
                    Some(_) | None => String::new(),
                };
                self.problem(file.origin(span.start), format!("invalid TOML: {}{what}", error.message()));
            }
        }
    }

    fn table(&mut self, prefix: &str, table: &DeTable<'_>, file: &File<'_>) {
        for (key, value) in table {
            let path = join(prefix, key.get_ref());
            let at = file.origin(key.span().start);
            if path == "runtimes" {
                self.runtimes(value, &at, file);
            } else if KEYS.iter().any(|known| known.path == path) {
                self.set(&path, value.get_ref(), file.origin(value.span().start));
            } else if !is_section(&path) {
                let near = advice(&path, prefix);
                self.problem(at, format!("unknown key `{path}`{near}"));
            } else if let Some(section) = value.get_ref().as_table() {
                self.table(&path, section, file);
            } else {
                self.problem(at, format!("`{path}` is a section: write its keys below a `[{path}]` line"));
            }
        }
    }

    fn runtimes(&mut self, value: &Spanned<DeValue<'_>>, at: &Origin, file: &File<'_>) {
        let Some(table) = value.get_ref().as_table() else {
            return self.problem(at.clone(), "`runtimes` is a section: write `[runtimes.NAME]`".to_owned());
        };
        for (name, value) in table {
            let at = file.origin(name.span().start);
            let name = name.get_ref().as_ref();
            match (check_runtime_name(name), value.get_ref().as_table()) {
                (Err(why), _) => self.problem(at, why),
                (Ok(()), Some(keys)) => self.runtime(name, keys, file),
                (Ok(()), None) => self.problem(
                    at,
                    format!(
                        "`runtimes.{name}` is a section: write its keys below a `[runtimes.{name}]` line"
                    ),
                ),
            }
        }
    }

    fn runtime(&mut self, name: &str, table: &DeTable<'_>, file: &File<'_>) {
        let mut runtime = self.config.runtimes.remove(name).unwrap_or_else(Runtime::plain);
        for (key, value) in table {
            let path = format!("runtimes.{name}.{}", key.get_ref());
            let Some(known) = RUNTIME_KEYS.iter().find(|known| known.path == key.get_ref().as_ref()) else {
                let near = runtime_advice(name, key.get_ref());
                self.problem(file.origin(key.span().start), format!("unknown key `{path}`{near}"));
                continue;
            };
            let origin = file.origin(value.span().start);
            match (known.slot)(&mut runtime).set(value.get_ref()) {
                Ok(()) => drop(self.origins.insert(path, origin)),
                Err(why) => self.problem(origin, format!("`{path}`: {why}")),
            }
        }
        self.config.runtimes.insert(name.to_owned(), runtime);
    }
}

/// The file being read, for converting offsets to lines.
struct File<'a> {
    path: &'a Path,
    text: &'a str,
}

impl File<'_> {
    fn origin(&self, offset: usize) -> Origin {
        let before = self.text.as_bytes().iter().take(offset);
        let line = 1 + before.filter(|byte| **byte == b'\n').count();
        Origin::File { path: self.path.to_owned(), line }
    }
}

fn join(prefix: &str, key: &str) -> String {
    if prefix.is_empty() { key.to_owned() } else { format!("{prefix}.{key}") }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::{
        config::fixture::read_text,
        domain::{ports::PortRange, runtime::PLAIN},
    };

    #[test]
    fn config_error_names_file_line_key_and_nearest_key() {
        for (text, message) in [
            ("\nport = 1", "config.toml:2: unknown key `port`; did you mean `network.port`?"),
            (
                "[network]\nprot = 1",
                "config.toml:2: unknown key `network.prot`; did you mean `network.port`?",
            ),
            (
                "[sweep]\n\nunkown_grace = \"5m\"",
                "config.toml:3: unknown key `sweep.unkown_grace`; did you mean `sweep.unknown_grace`?",
            ),
            (
                "absence_grace = \"5m\"",
                "config.toml:1: unknown key `absence_grace`; did you mean `sweep.absence_grace`?",
            ),
            ("[sweeps]\n", "config.toml:1: unknown key `sweeps`; did you mean `sweep`?"),
            (
                "[log]\nzzz = 1",
                "config.toml:2: unknown key `log.zzz`; known keys here are `log.level`, `log.format`",
            ),
            ("sweep = 5", "config.toml:1: `sweep` is a section: write its keys below a `[sweep]` line"),
            (
                "[sweep]\nabsence_grace = 300",
                "config.toml:2: `sweep.absence_grace`: expected a duration above 0, such as \"90s\", \"10m\" or \
                 \"14d\", found 300",
            ),
            (
                "[sweep]\nabsence_grace = \"0s\"",
                "config.toml:2: `sweep.absence_grace`: expected a duration above 0, such as \"90s\", \"10m\" or \
                 \"14d\", found \"0s\"",
            ),
            (
                "ports = \"9000-8000\"",
                "config.toml:1: `ports`: expected a port range, lowest first, such as \"21000-28999\", found \
                 \"9000-8000\"",
            ),
            (
                "[network]\nport = 70000",
                "config.toml:2: `network.port`: expected a port from 1 to 65535, found 70000",
            ),
            (
                "[network]\nport = 22000",
                "config.toml:2: `network.port` 22000 is within `ports` 21000-28999, the range for containers: change \
                 one of them",
            ),
            (
                "[network]\nplatform_url = \"box:7717\"",
                "config.toml:2: `network.platform_url`: expected a URL that begins with http:// or https://, found \
                 \"box:7717\"",
            ),
            (
                "[network]\nlisten = [\"127.0.0.1\", \"999.1.1.1\"]",
                "config.toml:2: `network.listen`: expected an address without a port, such as \"127.0.0.1\", found \"999.1.1.1\"",
            ),
            ("[network]\nisolate = 1", "config.toml:2: `network.isolate`: expected true or false, found 1"),
            ("data_dir = \"here\"", "config.toml:1: `data_dir`: expected an absolute path, found \"here\""),
            (
                "[log]\nformat = \"xml\"",
                "config.toml:2: `log.format`: expected \"auto\", \"pretty\" or \"json\", found \"xml\"",
            ),
        ] {
            assert_eq!(read_text(text).unwrap_err(), message, "of the file:\n{text}");
        }
    }

    #[test]
    fn runtime_config_error_names_file_line_key_and_nearest_key() {
        for (text, message) in [
            (
                "[runtimes.agent]\nimag = \"x\"",
                "config.toml:2: unknown key `runtimes.agent.imag`; did you mean `runtimes.agent.image`?",
            ),
            (
                "[runtimes.agent]\nmemory = \"512\"",
                "config.toml:2: `runtimes.agent.memory`: expected an amount of memory with its unit, such as \
                 \"512MiB\" or \"2GiB\", found \"512\"",
            ),
            (
                "[runtimes.agent]\nprivileged_tiers = [4, 5]",
                "config.toml:2: `runtimes.agent.privileged_tiers`: expected a list of tiers from 1 to 4, such as [4], \
                 found 5",
            ),
            (
                "[runtimes.agent]\nuser = \"agent\"",
                "config.toml:2: `runtimes.agent.user`: expected a user as \"uid:gid\", such as \"1000:1000\", found \
                 \"agent\"",
            ),
            (
                "[runtimes.agent]\nreadiness = \"ready\"",
                "config.toml:2: `runtimes.agent.readiness`: expected \"container\" or \"heartbeat\", found \"ready\"",
            ),
            (
                "[runtimes.agent.env]\nDEPTH = 3",
                "config.toml:1: `runtimes.agent.env`: `DEPTH`: expected a string, found an integer; put it in quotes",
            ),
            (
                "[runtimes.\"My Agent\"]\n",
                "config.toml:1: `runtimes.My Agent`: a runtime's name must have 1 to 63 characters: lower-case letters, \
                 digits, `-`, `_`",
            ),
            (
                "[runtimes.external]\n",
                "config.toml:1: `runtimes.external`: this name is reserved for external agents; choose another",
            ),
            ("runtimes = 1", "config.toml:1: `runtimes` is a section: write `[runtimes.NAME]`"),
            (
                "[runtimes]\nimage = \"x\"",
                "config.toml:2: `runtimes.image` is a section: write its keys below a `[runtimes.image]` line",
            ),
        ] {
            assert_eq!(read_text(text).unwrap_err(), message, "of the file:\n{text}");
        }
    }

    #[test]
    fn config_errors_are_reported_together() {
        let error = read_text("prots = 1\n[sweep]\nabsence_grace = 1\n").unwrap_err();
        assert!(error.starts_with("the configuration has 2 problems:\n  config.toml:1: "), "{error}");
        assert!(error.contains("\n  config.toml:3: "), "{error}");
    }

    #[test]
    fn invalid_toml_is_refused_with_its_line() {
        let error = read_text("data_dir = \"/x\"\n[sweep\n").unwrap_err();
        assert!(error.starts_with("config.toml:2: invalid TOML: "), "{error}");
    }

    #[test]
    fn config_file_overrides_only_the_keys_it_sets() {
        let config = read_text(
            "ports = \"30000-30100\"\n\
             [engine]\npull_deadline = \"1h\"\n\
             [runtimes.agent]\nimage = \"agent:1\"\nmemory = \"2GiB\"\ncpus = 1\nuser = \"7\"\n\
             readiness = \"heartbeat\"\nprivileged_tiers = [4]\ncommand = [\"run\"]\nenv = { A = \"b\" }\n",
        )
        .unwrap();
        assert_eq!(config.ports, PortRange { first: 30000, last: 30100 });
        assert_eq!(config.engine.pull_deadline, Duration::from_hours(1));
        assert_eq!(config.engine.read_deadline, Duration::from_secs(20));
        assert_eq!(config.runtimes[PLAIN], Runtime::plain());
        let agent = &config.runtimes["agent"];
        assert_eq!(agent.memory_bytes, Some(2 << 30));
        assert_eq!(agent.cpus, Some(1.0));
        assert_eq!(agent.user.to_string(), "7:7");
        assert_eq!(agent.provisioning_limit, Runtime::plain().provisioning_limit);
        assert_eq!(agent.env["A"], "b");
    }

    #[test]
    fn config_error_explains_invalid_values_and_duplicate_keys() {
        for (text, message) in [
            (
                "[log]\nlevel = \"warning\"",
                "config.toml:2: `log.level`: `warning` is not a log level: use one of off, error, warn, info, debug, trace, or \
                 `TARGET=LEVEL`, such as `ostler::sweep=debug`",
            ),
            ("[network]\nport = 1\nport = 2", "config.toml:3: invalid TOML: duplicate key: `port`"),
            (
                "[network]\nplatform_url = \"http://a b\"",
                "config.toml:2: `network.platform_url`: expected a URL that begins with http:// or https://, found \
                 \"http://a b\"",
            ),
        ] {
            assert_eq!(read_text(text).unwrap_err(), message, "{text}");
        }
    }
}
