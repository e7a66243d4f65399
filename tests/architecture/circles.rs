//! Finds files that import each other in a circle.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
};

use super::{source::code_of, sources};

/// Files that may be part of a circle, and why.
const EXEMPT: [&str; 5] = [
    // `completions` and `man` print the parser, which contains the arguments of all commands.
    "cli/args.rs",
    "cli/commands/completions.rs",
    "cli/commands/man.rs",
    "cli/commands/mod.rs",
    // A verb submits its order to an actor, and the actor carries out the orders of all verbs.
    "ops",
];

/// A path in the code: its segments, and the name that it has in a `use`.
type Named<'a> = (Vec<&'a str>, &'a str);

/// The code without its unit tests.
fn without_tests(code: &str) -> &str {
    let tests = code.match_indices("#[cfg(test)]\n").map(|(at, _)| at);
    let mut modules = tests.filter(|at| code[*at..].lines().nth(1).is_some_and(|line| line.ends_with('{')));
    modules.next().map_or(code, |at| &code[..at])
}

fn is_name(token: &str) -> bool {
    token.starts_with(|letter: char| letter.is_alphanumeric() || letter == '_')
}

/// Names, `::`, and single other characters.
fn tokens(code: &str) -> Vec<&str> {
    let (mut tokens, mut rest) = (Vec::new(), code.trim_start());
    while let Some(letter) = rest.chars().next() {
        let length = if is_name(rest) {
            rest.find(|letter: char| !letter.is_alphanumeric() && letter != '_').unwrap_or(rest.len())
        } else if rest.starts_with("::") {
            2
        } else {
            letter.len_utf8()
        };
        tokens.push(&rest[..length]);
        rest = rest[length..].trim_start();
    }
    tokens
}

/// Reads the path or the tree of paths that begins at a token. Returns the index after it.
fn read_paths<'a>(
    tokens: &[&'a str],
    mut at: usize,
    prefix: &[&'a str],
    found: &mut Vec<Named<'a>>,
) -> usize {
    let mut path = prefix.to_vec();
    while let Some(token) = tokens.get(at) {
        if *token == "{" {
            at += 1;
            while tokens.get(at).is_some_and(|token| *token != "}") {
                at =
                    if tokens[at] == "," { at + 1 } else { read_paths(tokens, at, &path, found).max(at + 1) };
            }
            return at + 1;
        }
        if !is_name(token) {
            break;
        }
        path.push(*token);
        at += 1;
        if tokens.get(at) != Some(&"::") {
            break;
        }
        at += 1;
    }
    if let Some(last) = path.last() {
        let renamed = tokens.get(at) == Some(&"as");
        let name = if renamed { tokens[at + 1] } else { last };
        found.push((path.clone(), name));
        return if renamed { at + 2 } else { at };
    }
    at
}

/// The name of a file's module, such as `store::lane`; empty for the crate root.
fn module_of(file: &Path) -> String {
    let name =
        file.with_extension("").iter().map(|part| part.to_str().unwrap()).collect::<Vec<_>>().join("::");
    name.strip_suffix("::mod").map_or_else(|| name.clone(), ToOwned::to_owned)
}

fn inside(module: &str, name: &str) -> String {
    if module.is_empty() { name.to_owned() } else { format!("{module}::{name}") }
}

#[derive(Default)]
struct Imports {
    files: BTreeMap<String, PathBuf>,
    /// What a name in a module refers to: a module, and the names inside it.
    uses: BTreeMap<(String, String), (String, Vec<String>)>,
}

impl Imports {
    /// The module that a path names, and the names inside it. `None` if the path does not begin in this crate.
    fn resolve(&self, module: &str, path: &[&str]) -> Option<(String, Vec<String>)> {
        let supers = path.iter().take_while(|segment| **segment == "super").count();
        let (mut at, mut rest) = match path[0] {
            "crate" => (String::new(), &path[1..]),
            "self" => (module.to_owned(), &path[1..]),
            "super" => {
                let names: Vec<_> = module.split("::").collect();
                (names[..names.len().saturating_sub(supers)].join("::"), &path[supers..])
            }
            child => self.files.contains_key(&inside(module, child)).then(|| (module.to_owned(), path))?,
        };
        while let [name, after @ ..] = rest
            && self.files.contains_key(&inside(&at, name))
        {
            (at, rest) = (inside(&at, name), after);
        }
        let names = rest.iter().filter(|name| **name != "self").map(|name| (*name).to_owned());
        Some((at, names.collect()))
    }

    /// The file that defines what a path names, beyond all re-exports.
    fn file(&self, module: &str, path: &[&str]) -> Option<&PathBuf> {
        let (mut at, mut names) = self.resolve(module, path)?;
        while let Some(name) = names.first()
            && let Some((next, inner)) = self.uses.get(&(at.clone(), name.clone()))
        {
            names = inner.iter().chain(&names[1..]).cloned().collect();
            at.clone_from(next);
        }
        self.files.get(&at)
    }
}

/// The files that each file imports. A name counts as an import of the file that defines it. A `pub use` counts only if
/// the file itself uses the name too.
fn imports(sources: &BTreeMap<PathBuf, String>) -> BTreeMap<PathBuf, BTreeSet<PathBuf>> {
    let mut known = Imports::default();
    let code: BTreeMap<_, _> = sources
        .iter()
        .filter(|(file, _)| !["lib.rs", "main.rs"].iter().any(|root| file.ends_with(root)))
        .map(|(file, text)| (file, without_tests(text)))
        .map(|(file, text)| (file, code_of(text)))
        .collect();
    known.files.extend(code.keys().map(|file| (module_of(file), (*file).clone())));
    let mut named = Vec::new();
    for (file, code) in &code {
        let (module, tokens) = (module_of(file), tokens(code));
        let (mut at, mut uses, mut words) = (0, Vec::new(), BTreeSet::new());
        while at < tokens.len() {
            let before = at.checked_sub(1).map_or("", |before| tokens[before]);
            let begins_path = tokens.get(at + 1) == Some(&"::") && !["::", ".", "in"].contains(&before);
            let mut found = Vec::new();
            if tokens[at] == "use" {
                at = read_paths(&tokens, at + 1, &[], &mut found);
                uses.extend(found.into_iter().map(|found| (found, ["pub", ")"].contains(&before))));
            } else if is_name(tokens[at]) && begins_path {
                at = read_paths(&tokens, at, &[], &mut found);
                words.extend(found.iter().map(|(path, _)| path[0]));
                named.extend(found.into_iter().map(|(path, _)| (*file, path_of(&path))));
            } else {
                if before != "mod" {
                    words.insert(tokens[at]);
                }
                at += 1;
            }
        }
        for ((path, name), is_public) in uses {
            if let Some(target) = known.resolve(&module, &path) {
                known.uses.insert((module.clone(), name.to_owned()), target);
            }
            if !is_public || words.contains(name) {
                named.push((*file, path_of(&path)));
            }
        }
    }
    let mut imports: BTreeMap<PathBuf, BTreeSet<PathBuf>> = BTreeMap::new();
    for (file, path) in named {
        let path: Vec<_> = path.iter().map(String::as_str).collect();
        if let Some(target) = known.file(&module_of(file), &path).filter(|target| *target != file) {
            imports.entry(file.clone()).or_default().insert(target.clone());
        }
    }
    imports
}

fn path_of(path: &[&str]) -> Vec<String> {
    path.iter().map(|segment| (*segment).to_owned()).collect()
}

/// The files from which a chain of imports leads back to them, each with the imports that are part of such a chain.
fn circles(imports: &BTreeMap<PathBuf, BTreeSet<PathBuf>>) -> BTreeMap<PathBuf, BTreeSet<PathBuf>> {
    let leads_to = |from: &PathBuf, to: &PathBuf| {
        let (mut seen, mut next) = (BTreeSet::new(), vec![from]);
        while let Some(file) = next.pop() {
            next.extend(imports.get(file).into_iter().flatten().filter(|file| seen.insert(*file)));
        }
        seen.contains(to)
    };
    let leading_back = |(file, named): (&PathBuf, &BTreeSet<PathBuf>)| {
        let back: BTreeSet<_> = named.iter().filter(|named| leads_to(named, file)).cloned().collect();
        (!back.is_empty()).then(|| (file.clone(), back))
    };
    imports.iter().filter_map(leading_back).collect()
}

#[test]
fn no_files_import_each_other_in_a_circle() {
    let found = circles(&imports(&sources()));
    let unexpected: Vec<_> = found
        .iter()
        .filter(|(file, _)| !EXEMPT.iter().any(|exempt| file.starts_with(exempt)))
        .map(|(file, named)| format!("{} imports {named:?}", file.display()))
        .collect();
    assert!(unexpected.is_empty(), "circles between files:\n{}", unexpected.join("\n"));
}

#[test]
fn circle_is_detected_in_every_notation() {
    let found = |files: &[(&str, &str)]| {
        let sources = files.iter().map(|(file, text)| (PathBuf::from(file), (*text).to_owned())).collect();
        circles(&imports(&sources)).len()
    };
    for (one, other) in [
        ("use super::b::B;", "use super::a::A;"),
        ("use crate::x::{self, b::{B as C, D}};", "fn f(_: super::a::A) {}"),
        ("fn f(b: crate::x::b::B) {}", "use crate::x::a;"),
        ("use super::B;", "use super::a::A;"),
        ("use crate::x::B;", "use crate::x::A as Other;"),
    ] {
        let facade = ("x/mod.rs", "mod a; mod b; pub use a::A; pub use b::B;");
        assert_eq!(found(&[facade, ("x/a.rs", one), ("x/b.rs", other)]), 2, "{one} {other}");
    }
    for (one, other) in [
        ("use super::b::B;", "#[cfg(test)]\nmod tests {\n    use super::super::a::A;\n}"),
        ("use super::b::B;", "// use super::a::A;"),
        ("use super::b::B;", "pub(in crate::x::a) fn f() {}"),
        ("use super::B;", "pub struct B;"),
    ] {
        let facade = ("x/mod.rs", "mod a; mod b; pub use a::A; pub use b::B;");
        assert_eq!(found(&[facade, ("x/a.rs", one), ("x/b.rs", other)]), 0, "{one} {other}");
    }
    assert_eq!(
        found(&[("x/mod.rs", "mod a; pub use a::A; pub struct X(A);"), ("x/a.rs", "use super::X;")]),
        2
    );
}
