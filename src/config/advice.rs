//! Names the known key that an unknown one resembles.

use super::{
    keys::{KEYS, Key, RUNTIME_KEYS},
    overrides::FILE_VARIABLE,
};

/// Text to append to the error about an unknown key: the most similar known key, or all keys of the same section.
pub(super) fn advice(path: &str, section: &str) -> String {
    let sections = KEYS.iter().filter_map(|key| key.path.split_once('.')).map(|(section, _)| section);
    let sections = sections.chain(["runtimes"]).filter(|_| section.is_empty());
    let known = KEYS.iter().map(|key| key.path).chain(sections);
    if let Some(nearest) = nearest(path, known) {
        return format!("; did you mean `{nearest}`?");
    }
    let here =
        KEYS.iter().filter(|key| key.path.rsplit_once('.').map_or("", |(before, _)| before) == section);
    format!("; known keys here are {}", names(here))
}

/// Like `advice`, inside `[runtimes.NAME]`.
pub(super) fn runtime_advice(runtime: &str, key: &str) -> String {
    match nearest(key, RUNTIME_KEYS.iter().map(|key| key.path)) {
        Some(nearest) => format!("; did you mean `runtimes.{runtime}.{nearest}`?"),
        None => format!("; known keys here are {}", names(RUNTIME_KEYS.iter())),
    }
}

/// Like `advice`, for an environment variable.
pub(super) fn variable_advice(name: &str) -> String {
    let known: Vec<_> = KEYS.iter().map(Key::variable).chain([FILE_VARIABLE.to_owned()]).collect();
    match nearest(name, known.iter().map(String::as_str)) {
        Some(nearest) => format!("; did you mean {nearest}?"),
        None => "; `ostler config show` lists the known keys".to_owned(),
    }
}

fn names<'a, T: 'a>(keys: impl Iterator<Item = &'a Key<T>>) -> String {
    let names: Vec<_> = keys.map(|key| format!("`{}`", key.path)).collect();
    names.join(", ")
}

/// Returns the most similar known key, if one is similar enough: as a whole (a typing error), or in its last part (a
/// key of another section).
fn nearest<'a>(given: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let last = |path: &'a str| path.rsplit('.').next().unwrap_or(path);
    let given_last = given.rsplit('.').next().unwrap_or(given);
    known
        .map(|path| {
            let whole = strsim::jaro_winkler(given, path);
            let word = strsim::jaro_winkler(given_last, last(path)) * 0.98;
            (path, whole.max(word))
        })
        .filter(|(_, likeness)| *likeness > 0.84)
        .max_by(|(_, one), (_, other)| one.total_cmp(other))
        .map(|(path, _)| path)
}
