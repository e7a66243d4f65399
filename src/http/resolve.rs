//! Finds the workspace for a name, id or id prefix that a user entered.

use super::{
    Api,
    error::{HttpError, HttpResult},
};
use crate::{
    domain::{naming::WorkspaceName, trash::TrashEntry, workspace::Workspace},
    store::{Found, Scope},
};

/// Smallest Jaro-Winkler similarity at which a name is suggested.
const NEAR: f64 = 0.75;
/// The most suggestions in one message.
const SUGGESTIONS: usize = 3;

impl Api {
    /// Returns the workspace with this name, id or unique id prefix.
    ///
    /// # Errors
    /// 404 with suggestions if there is none, 409 if the prefix is not unique.
    pub(super) async fn resolve(&self, reference: &str, scope: Scope) -> HttpResult<Workspace> {
        match self.0.store.find_workspace(reference.to_owned(), scope).await? {
            Found::One(row) => Ok(*row),
            Found::Many(rows) => {
                let ids: Vec<_> = rows.iter().map(|(name, id)| format!("{id} ({name})")).collect();
                Err(HttpError::conflict(format!(
                    "`{reference}` is ambiguous: it matches {}. Use a longer prefix of the id",
                    ids.join(", ")
                )))
            }
            Found::None(names) if scope == Scope::Removed => Err(self.no_removed(reference, &names).await?),
            Found::None(names) => Err(HttpError::not_found(format!(
                "workspace not found: no name or id matches `{reference}`{}",
                suggestion(reference, &names).unwrap_or_else(|| ". List workspaces with `ostler ls`".into())
            ))),
        }
    }

    /// Returns the error for a reference that matches no removed workspace. The error names matching trash entries:
    /// after the loss of a database, the containers and volumes of removed workspaces are in the trash although there
    /// is no row to undelete.
    async fn no_removed(&self, reference: &str, names: &[WorkspaceName]) -> HttpResult<HttpError> {
        let entries = self.0.store.trash().await?;
        let is_meant = |entry: &&TrashEntry| {
            entry.workspace_name == reference
                || (reference.len() >= 4 && entry.workspace.to_string().starts_with(reference))
        };
        let next = match entries.iter().filter(is_meant).collect::<Vec<_>>()[..] {
            [] => suggestion(reference, names).unwrap_or_else(|| {
                ". `ostler ls --removed` lists removed workspaces, `ostler trash ls` lists the trash, and \
                 `ostler doctor` lists containers and volumes in Podman that the registry does not know"
                    .into()
            }),
            [entry] => format!(
                ", but its container or volumes are in the trash. Restore them with `ostler trash restore {}`",
                entry.id
            ),
            _ => ", but its containers or volumes are in the trash. List the entries with `ostler trash ls` and \
                  restore one with `ostler trash restore ID`"
                .into(),
        };
        Ok(HttpError::not_found(format!(
            "workspace not found: no removed workspace matches `{reference}`{next}"
        )))
    }
}

fn suggestion(reference: &str, names: &[WorkspaceName]) -> Option<String> {
    let lower = reference.to_lowercase();
    let mut near: Vec<_> = names
        .iter()
        .map(|name| (strsim::jaro_winkler(&lower, &name.as_str().to_lowercase()), name))
        .filter(|(likeness, _)| *likeness >= NEAR)
        .collect();
    near.sort_by(|a, b| b.0.total_cmp(&a.0));
    let near: Vec<_> = near.iter().take(SUGGESTIONS).map(|(_, name)| format!("`{name}`")).collect();
    (!near.is_empty()).then(|| format!(". Did you mean {}?", near.join(" or ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn similar_names_are_suggested_nearest_first() {
        let names: Vec<WorkspaceName> =
            ["backend", "frontend", "frontends"].iter().map(|name| name.parse().unwrap()).collect();
        let near = suggestion("frontent", &names);
        assert_eq!(near.as_deref(), Some(". Did you mean `frontend` or `frontends`?"));
        assert_eq!(suggestion("xyz", &names), None);
    }
}
