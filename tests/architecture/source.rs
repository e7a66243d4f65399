//! A minimal parser of Rust that finds the paths in a source file.

use std::{collections::BTreeSet, path::Path};

/// The layer of a file: the first part of its path below `src`.
pub(super) fn layer_of(file: &Path) -> &str {
    let first = file.iter().next().and_then(|part| part.to_str()).unwrap_or_default();
    first.strip_suffix(".rs").unwrap_or(first)
}

/// The text without its comments and without the content of its literals.
pub(super) fn code_of(text: &str) -> String {
    let mut code = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(letter) = rest.chars().next() {
        let skipped = match letter {
            '/' if rest.starts_with("//") => rest.find('\n').unwrap_or(rest.len()),
            '/' if rest.starts_with("/*") => block_comment(rest),
            '"' => string(rest),
            'r' if !code.ends_with(is_name_char) => raw_string(rest),
            '\'' => character(rest),
            _ => 0,
        };
        if skipped > 0 {
            code.push(' ');
            rest = &rest[skipped..];
        } else {
            code.push(letter);
            rest = &rest[letter.len_utf8()..];
        }
    }
    code
}

fn is_name_char(letter: char) -> bool {
    letter.is_alphanumeric() || letter == '_'
}

fn block_comment(rest: &str) -> usize {
    let (mut depth, mut at) = (0, 0);
    while at < rest.len() {
        let here = &rest[at..];
        if here.starts_with("/*") {
            (depth, at) = (depth + 1, at + 2);
        } else if here.starts_with("*/") {
            (depth, at) = (depth - 1, at + 2);
            if depth == 0 {
                return at;
            }
        } else {
            at += here.chars().next().map_or(1, char::len_utf8);
        }
    }
    rest.len()
}

fn string(rest: &str) -> usize {
    let mut escaped = false;
    for (at, letter) in rest.char_indices().skip(1) {
        match letter {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '"' => return at + 1,
            _ => {}
        }
    }
    rest.len()
}

fn raw_string(rest: &str) -> usize {
    let hashes = rest[1..].chars().take_while(|letter| *letter == '#').count();
    if !rest[1 + hashes..].starts_with('"') {
        return 0;
    }
    let end = format!("\"{}", "#".repeat(hashes));
    let begin = hashes + 2;
    rest[begin..].find(&end).map_or(rest.len(), |at| begin + at + end.len())
}

/// Length of a character literal; zero for a lifetime.
fn character(rest: &str) -> usize {
    let mut letters = rest.char_indices().skip(1);
    match letters.next() {
        Some((_, '\\')) => {
            rest[2..].char_indices().skip(1).find(|(_, l)| *l == '\'').map_or(0, |(at, _)| at + 3)
        }
        Some(_) => letters.next().filter(|(_, letter)| *letter == '\'').map_or(0, |(at, _)| at + 1),
        None => 0,
    }
}

/// The layers that a file names by `crate::`, by the crate's name, or by `super::` up to the crate root.
pub(super) fn named_layers(file: &Path, text: &str) -> BTreeSet<String> {
    let code = code_of(text);
    let mut named = BTreeSet::new();
    for root in ["crate", "ostler"] {
        for (at, _) in code.match_indices(root).filter(|(at, _)| is_whole_name(&code, *at, root.len())) {
            named.extend(first_segments(&code[at + root.len()..]));
        }
    }
    for (at, _) in code.match_indices("super").filter(|(at, _)| is_whole_name(&code, *at, "super".len())) {
        let (supers, after) = climb(&code[at..]);
        // A chain of `super::super` is counted only once, at its first `super`.
        let begins = !code[..at].trim_end().ends_with("::");
        if begins && supers == depth(file) + inline_depth(&code[..at]) {
            named.extend(first_segments(after));
        }
    }
    named
}

fn is_whole_name(code: &str, at: usize, length: usize) -> bool {
    !code[..at].ends_with(is_name_char) && !code[at + length..].starts_with(is_name_char)
}

/// Depth of a file's module below the crate root.
fn depth(file: &Path) -> usize {
    let parts = file.components().count();
    if file.ends_with("mod.rs") { parts - 1 } else { parts }
}

/// Number of open `mod name {` at the end of this code.
fn inline_depth(code: &str) -> usize {
    let mut open = Vec::new();
    for (at, letter) in code.char_indices() {
        match letter {
            '{' => open.push(opens_module(&code[..at])),
            '}' => drop(open.pop()),
            _ => {}
        }
    }
    open.into_iter().filter(|module| *module).count()
}

fn opens_module(before: &str) -> bool {
    let name = before.trim_end();
    let keyword = name.trim_end_matches(is_name_char).trim_end();
    keyword.len() < name.len()
        && keyword.ends_with("mod")
        && !keyword[..keyword.len() - 3].ends_with(is_name_char)
}

/// Counts the consecutive `super` segments at the start of `code`. Returns the count and the text after the last of
/// them, which begins with `::` if the path continues.
fn climb(code: &str) -> (usize, &str) {
    let (mut supers, mut rest) = (0, code);
    loop {
        rest = &rest["super".len()..];
        supers += 1;
        match rest.trim_start().strip_prefix("::").map(str::trim_start) {
            Some(next) if next.starts_with("super") && is_whole_name(next, 0, "super".len()) => rest = next,
            _ => return (supers, rest),
        }
    }
}

/// The first names after a path's root: `a` for `::a::b`; `a` and `c` for `::{a::b, c}`.
fn first_segments(after: &str) -> Vec<String> {
    let Some(after) = after.trim_start().strip_prefix("::") else { return Vec::new() };
    let after = after.trim_start();
    let Some(group) = after.strip_prefix('{') else { return root_module(after).into_iter().collect() };
    let (mut depth, mut part, mut names) = (1, String::new(), Vec::new());
    for letter in group.chars() {
        match letter {
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 1 => names.extend(root_module(&std::mem::take(&mut part))),
            _ if depth == 1 => part.push(letter),
            _ => {}
        }
        if depth == 0 {
            break;
        }
    }
    names.extend(root_module(&part));
    names
}

/// Returns the name of a module in the crate root. `None` for `self`, and for names that do not begin with a lower-case
/// letter, such as types.
fn root_module(text: &str) -> Option<String> {
    let root_module: String = text.trim_start().chars().take_while(|letter| is_name_char(*letter)).collect();
    (root_module.starts_with(|letter: char| letter.is_lowercase()) && root_module != "self")
        .then_some(root_module)
}
