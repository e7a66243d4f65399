//! From what a person typed to the row that is meant.

use super::{
    Api,
    error::{HttpError, HttpResult},
};
use crate::{
    domain::{naming::WorkspaceName, workspace::Workspace},
    store::{Found, Scope},
};

/// How alike two names have to be for one to be suggested for the other.
const NEAR: f64 = 0.75;
/// The most suggestions.
const SUGGESTIONS: usize = 3;

impl Api {
    /// The workspace of a name, id or unique id prefix.
    pub(super) async fn resolve(&self, reference: &str, scope: Scope) -> HttpResult<Workspace> {
        match self.0.store.find_workspace(reference.to_owned(), scope).await? {
            Found::One(row) => Ok(*row),
            Found::Many(rows) => {
                let ids: Vec<_> = rows.iter().map(|(name, id)| format!("{id} ({name})")).collect();
                Err(HttpError::conflict(format!(
                    "`{reference}` is not unique: it may be {}. Give more of the id",
                    ids.join(", ")
                )))
            }
            Found::None(names) => Err(HttpError::not_found(format!(
                "workspace not found: nothing {} `{reference}`{}",
                if scope == Scope::Removed { "removed is called" } else { "is called" },
                suggestion(reference, &names)
            ))),
        }
    }
}

fn suggestion(reference: &str, names: &[WorkspaceName]) -> String {
    let lower = reference.to_lowercase();
    let mut near: Vec<_> = names
        .iter()
        .map(|name| (strsim::jaro_winkler(&lower, &name.as_str().to_lowercase()), name))
        .filter(|(likeness, _)| *likeness >= NEAR)
        .collect();
    near.sort_by(|a, b| b.0.total_cmp(&a.0));
    let near: Vec<_> = near.iter().take(SUGGESTIONS).map(|(_, name)| format!("`{name}`")).collect();
    if near.is_empty() {
        ". `ostler ls` shows what there is".into()
    } else {
        format!(". Did you mean {}?", near.join(" or "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn near_names_are_suggested_the_nearest_first() {
        let names: Vec<WorkspaceName> =
            ["backend", "frontend", "frontends"].iter().map(|name| name.parse().unwrap()).collect();
        assert_eq!(suggestion("frontent", &names), ". Did you mean `frontend` or `frontends`?");
        assert_eq!(suggestion("xyz", &names), ". `ostler ls` shows what there is");
    }
}
