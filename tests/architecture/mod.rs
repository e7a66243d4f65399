//! Architecture tests: allowed dependencies between layers, and operations that only one module may use.
//!
//! The allowed dependencies keep the domain's rules separate from the modules that apply them, and free of calls to the
//! engine and SQLite. The compiler sees a single crate and allows every dependency, so these tests read the sources.
//! The parser below recognises only paths: it skips comments and literals, expands groups, and resolves `super` up to
//! the crate root.

mod circles;
mod crash_points;
mod source;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

use source::{code_of, layer_of, named_layers};

/// Each layer and the layers it may use, which come later in this list.
const ARROWS: &[(&str, &[&str])] = &[
    ("main", &["cli", "daemon", "telemetry", "config", "api"]),
    ("cli", &["api", "domain", "unix_http"]),
    (
        "daemon",
        &[
            "app",
            "http",
            "doctor",
            "registry",
            "telemetry",
            "config",
            "api",
            "sweep",
            "ops",
            "store",
            "engine",
            "runtime",
            "domain",
            "testing",
        ],
    ),
    ("app", &["http", "doctor", "sweep", "ops", "store", "engine", "runtime", "domain"]),
    (
        "http",
        &[
            "doctor",
            "registry",
            "api",
            "sweep",
            "ops",
            "store",
            "engine",
            "runtime",
            "domain",
            "testing",
            "spec_fields",
        ],
    ),
    ("doctor", &["registry", "api", "sweep", "store", "engine", "runtime", "domain"]),
    ("registry", &["store", "runtime", "domain", "testing"]),
    ("telemetry", &["config"]),
    ("config", &["domain"]),
    ("api", &["spec_fields"]),
    ("sweep", &["ops", "store", "engine", "runtime", "domain", "testing"]),
    ("ops", &["store", "engine", "runtime", "domain", "testing"]),
    ("store", &["runtime", "domain", "testing"]),
    ("engine", &["runtime", "domain", "testing", "unix_http"]),
    ("runtime", &["domain", "testing"]),
    ("domain", &["testing", "spec_fields"]),
    ("testing", &[]),
    ("spec_fields", &[]),
    ("unix_http", &[]),
];

/// The source files by their path below `src`.
fn sources() -> BTreeMap<PathBuf, String> {
    let sources = sources_below("src");
    assert!(sources.len() > 50, "only {} sources were found", sources.len());
    sources
}

/// The source files by their path below a directory of the package.
fn sources_below(directory: &str) -> BTreeMap<PathBuf, String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join(directory);
    let mut sources = BTreeMap::new();
    let mut directories = vec![root.clone()];
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(&directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                directories.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = fs::read_to_string(&path).unwrap();
                sources.insert(path.strip_prefix(&root).unwrap().to_owned(), text);
            }
        }
    }
    sources
}

/// The forbidden dependencies of a file.
fn broken_arrows(file: &Path, text: &str) -> Vec<String> {
    let layer = layer_of(file);
    if layer == "lib" {
        return Vec::new();
    }
    let Some((_, allowed)) = ARROWS.iter().find(|(name, _)| *name == layer) else {
        return vec![format!(
            "{}: layer `{layer}` is not in the table of tests/architecture",
            file.display()
        )];
    };
    let named = named_layers(file, text).into_iter().filter(|named| *named != layer);
    named
        .filter(|named| !allowed.contains(&named.as_str()))
        .map(|named| format!("{}: `{layer}` must not use `{named}`", file.display()))
        .collect()
}

#[test]
fn every_source_file_uses_only_layers_allowed_for_it() {
    let broken: Vec<_> = sources().iter().flat_map(|(file, text)| broken_arrows(file, text)).collect();
    assert!(broken.is_empty(), "{}", broken.join("\n"));
}

#[test]
fn layer_table_has_no_upward_dependency() {
    let position = |layer: &str| ARROWS.iter().position(|(name, _)| *name == layer);
    for (layer, allowed) in ARROWS {
        for below in *allowed {
            assert!(position(below) > position(layer), "`{layer}` may use `{below}`, which is not below it");
        }
    }
}

#[test]
fn crate_documentation_shows_the_layer_table() {
    let page = include_str!("../../src/lib.rs");
    let documented: BTreeMap<&str, BTreeSet<&str>> = page
        .lines()
        .filter_map(|line| line.strip_prefix("//! | `")?.split_once("` | "))
        .map(|(layer, rest)| {
            let arrows = rest.split('|').next().unwrap_or_default().split('`').skip(1).step_by(2);
            (layer, arrows.collect())
        })
        .collect();
    for (layer, allowed) in
        ARROWS.iter().filter(|(layer, _)| sources().keys().any(|file| layer_of(file) == *layer))
    {
        let expected: BTreeSet<&str> = allowed.iter().copied().collect();
        assert_eq!(
            documented.get(layer),
            Some(&expected),
            "src/lib.rs and the table of tests/architecture differ for `{layer}`"
        );
    }
}

#[test]
fn forbidden_dependency_is_detected_in_every_notation() {
    let broken = |file: &str, text: &str| broken_arrows(Path::new(file), text).len();
    for (file, text) in [
        ("store/tokens.rs", "use crate::ops::Ops;"),
        ("store/tokens.rs", "use crate::{ domain::{ids, time}, ops::Ops };"),
        ("store/tokens.rs", "use crate::{ \n    self as all, \n    engine::Engine, \n };"),
        ("store/tokens.rs", "fn f() -> crate::engine::Engine { todo!() }"),
        ("store/tokens.rs", "use super::super::engine::Engine;"),
        ("store/mod.rs", "use super::{engine::Engine, domain};"),
        ("runtime/clock.rs", "mod inner { use super::super::super::store::Store; }"),
        ("domain/plan.rs", "pub(in crate::sweep) use crate::runtime::tasks::Spawn;"),
        ("main.rs", "use ostler::{ api, store::Store };"),
        ("unlisted.rs", "use crate::domain::ids;"),
    ] {
        assert!(broken(file, text) > 0, "{file}: {text}");
    }
    for (file, text) in [
        ("store/tokens.rs", "use crate::{ domain::{ids, event as ops}, runtime::tasks::Stage };"),
        ("store/tokens.rs", "// use crate::ops::Ops;\n/* crate::ops /* crate::ops */ crate::ops */"),
        (
            "store/tokens.rs",
            "const A: &str = \"crate::ops \\\" crate::ops\"; const B: &str = r#\"crate::\"ops\"#;",
        ),
        ("store/tokens.rs", "fn f<'a>(x: &'a str) -> char { let q = '\"'; 'c' } // crate::ops"),
        ("store/tokens.rs", "mod tests { use super::*; use super::super::trash::entry; }"),
        ("ops/stop.rs", "use super::{Ops, actor::Phase};"),
        ("sweep/passes/settle.rs", "use super::super::{Pass, Snapshot};"),
    ] {
        assert_eq!(broken(file, text), 0, "{file}: {text}");
    }
}

/// Describes each file outside of `home` whose code contains one of the words.
fn users_outside(words: &[&str], home: &str) -> Vec<String> {
    let of_file = |(file, text): (&PathBuf, &String)| {
        let code = code_of(text);
        let word = words.iter().find(|word| code.contains(**word))?;
        (!file.starts_with(home))
            .then(|| format!("{} uses `{word}`, which only src/{home} may use", file.display()))
    };
    sources().iter().filter_map(of_file).collect()
}

#[test]
fn only_the_store_uses_sqlite() {
    assert_eq!(users_outside(&["rusqlite"], "store"), Vec::<String>::new());
}

#[test]
fn only_the_podman_engine_uses_podman_api() {
    assert_eq!(users_outside(&["podman_api"], "engine/podman"), Vec::<String>::new());
}

#[test]
fn only_the_composition_root_builds_an_app() {
    let builds = ["Ops::new(", "Sweeper::new(", "Doctor::new(", "Api::new("];
    let root = code_of(&sources()[Path::new("app.rs")]);
    for build in builds {
        assert!(root.contains(build), "src/app.rs does not contain `{build}`");
    }
    assert_eq!(users_outside(&builds, "app.rs"), Vec::<String>::new());
    for (file, text) in sources_below("tests").into_iter().chain(sources_below("benches")) {
        let code = code_of(&text);
        let build = builds.into_iter().find(|build| code.contains(build));
        assert_eq!(build, None, "{} builds a part of the app itself", file.display());
    }
}

#[test]
fn only_one_file_writes_to_stdout() {
    let prints = |text: &str| {
        // Checking for a terminal is not writing, and stderr is allowed.
        let code = code_of(text).replace("stdout().is_terminal()", "").replace("eprint", "");
        ["print!(", "println!(", "stdout()"].into_iter().any(|call| code.contains(call))
    };
    let sources = sources();
    let writers: Vec<_> = sources.iter().filter(|(_, text)| prints(text)).map(|(file, _)| file).collect();
    assert_eq!(writers, [Path::new("cli/output.rs")]);
}

#[test]
fn every_source_file_starts_with_a_module_comment() {
    let without = sources().into_iter().filter(|(_, text)| !text.starts_with("//! "));
    let without: Vec<_> = without.map(|(file, _)| file).collect();
    assert!(without.is_empty(), "files without a module comment: {without:?}");
}

#[test]
fn every_sweep_pass_is_registered() {
    let sources = sources();
    let folder = Path::new("sweep/passes");
    let list = code_of(&sources[&folder.join("mod.rs")]);
    let entries = &list[list.find("vec![").expect("the list of passes")..];
    let passes = sources.keys().filter(|file| file.parent() == Some(folder) && !file.ends_with("mod.rs"));
    for pass in passes.map(|file| file.file_stem().unwrap().to_str().unwrap()) {
        assert!(list.contains(&format!("mod {pass};")), "{pass} is not a module of sweep/passes");
        assert!(
            entries.contains(&format!("Arc::new({pass}::")),
            "{pass} is not in the list of sweep/passes/mod.rs"
        );
    }
}
