//! `ostler token`

use std::time::Duration;

use clap::builder::NonEmptyStringValueParser;

use crate::{
    api::token::{
        AdminTokenView, IssueAdminToken, IssueToken, IssuedAdminToken, IssuedToken, TokenList, TokenView,
    },
    cli::{
        client::{segment, workspace},
        failure::Failure,
        output::{self, Cell},
        session::Session,
        text,
    },
    domain::duration,
};

/// Issue, list and revoke the tokens of agents and admins
#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Args {
    /// The subcommand.
    #[command(subcommand)]
    command: TokenCommand,
}

/// A command about tokens.
#[derive(Debug, clap::Subcommand)]
enum TokenCommand {
    /// Issue a token for a workspace
    #[command(after_help = "\
Standard output contains only the token. It cannot be shown again: the registry stores only its digest.
An admin token permits everything that this command line permits; with `--admin`, the name is a label.

Examples:
  ostler token issue builder
  ostler token issue --admin dashboard --expires 90d
  TOKEN=$(ostler token issue builder --expires 30d)")]
    Issue {
        /// Name, id or prefix of the id of the workspace; with `--admin`, a label for the token
        #[arg(value_parser = NonEmptyStringValueParser::new())]
        name: String,
        /// Issue an admin token
        #[arg(long)]
        admin: bool,
        /// Duration for which the token is valid, such as 12h or 30d [default: until revoked]
        #[arg(long, value_name = "DURATION", value_parser = lifetime)]
        expires: Option<Duration>,
    },
    /// List the valid tokens of a workspace
    #[command(
        visible_alias = "list",
        after_help = "\
Examples:
  ostler token ls builder
  ostler token ls --admin"
    )]
    Ls {
        /// Name, id or prefix of the id
        #[arg(value_parser = NonEmptyStringValueParser::new(), required_unless_present = "admin")]
        name: Option<String>,
        /// List the admin tokens
        #[arg(long, conflicts_with = "name")]
        admin: bool,
    },
    /// Revoke a token
    #[command(after_help = "\
Examples:
  ostler token ls builder
  ostler token revoke builder 41d0
  ostler token revoke --admin 77c2")]
    Revoke {
        /// Name, id or prefix of the id of the workspace; with `--admin`, the id of the token
        #[arg(value_parser = NonEmptyStringValueParser::new())]
        name: String,
        /// Id of the token from `token ls`, or a prefix of it
        // Tokens issued by older versions may begin with a hyphen.
        #[arg(
            value_parser = NonEmptyStringValueParser::new(),
            required_unless_present = "admin",
            allow_hyphen_values = true
        )]
        token: Option<String>,
        /// Revoke an admin token
        #[arg(long, conflicts_with = "token")]
        admin: bool,
    },
}

/// Parses a duration of at least a second, because the daemon counts whole seconds.
fn lifetime(text: &str) -> Result<Duration, String> {
    duration::parse(text)
        .filter(|lifetime| lifetime.as_secs() > 0)
        .ok_or_else(|| "expected a duration such as \"12h\" or \"30d\"".to_owned())
}

pub(in crate::cli) async fn run(session: &Session<'_>, args: Args) -> Result<u8, Failure> {
    match args.command {
        TokenCommand::Issue { name, admin, expires } => {
            let expires_in_seconds = expires.map(|after| after.as_secs());
            if admin {
                return issue_admin(session, IssueAdminToken { name, expires_in_seconds }).await;
            }
            issue(session, &name, IssueToken { expires_in_seconds }).await
        }
        TokenCommand::Ls { name: Some(name), admin: false } => ls(session, &name).await,
        TokenCommand::Ls { .. } => ls_admin(session).await,
        TokenCommand::Revoke { name, token: Some(token), admin: false } => {
            revoke(session, &name, &token).await
        }
        TokenCommand::Revoke { name: token, .. } => revoke_admin(session, &token).await,
    }
}

async fn issue_admin(session: &Session<'_>, order: IssueAdminToken) -> Result<u8, Failure> {
    let issued: IssuedAdminToken = session.client.post("/admin/tokens", &order).await?;
    if session.out.json() {
        session.out.value(&issued)?;
        return Ok(0);
    }
    session.out.line(&issued.auth_token)?;
    output::note("This token permits everything that this command line permits. It cannot be shown again.");
    Ok(0)
}

async fn ls_admin(session: &Session<'_>) -> Result<u8, Failure> {
    let list: Vec<AdminTokenView> = session.client.get("/admin/tokens").await?;
    if session.out.json() {
        session.out.value(&list)?;
    } else if list.is_empty() {
        output::note("There are no admin tokens.");
    } else {
        let row = |token: &AdminTokenView| -> [Cell; 5] {
            [
                text::short(&token.id).into(),
                format!("{}…", token.prefix).into(),
                token.name.as_str().into(),
                text::local(&token.created_at).into(),
                token.expires_at.as_deref().map_or_else(|| "never".to_owned(), text::local).into(),
            ]
        };
        session.out.table(["ID", "PREFIX", "LABEL", "CREATED", "EXPIRES"], list.iter().map(row).collect())?;
    }
    Ok(0)
}

async fn revoke_admin(session: &Session<'_>, token: &str) -> Result<u8, Failure> {
    let outcome: serde_json::Value =
        session.client.delete(&format!("/admin/tokens/{}", segment(token))).await?;
    if session.out.json() {
        session.out.value(&outcome)?;
    } else {
        session.out.line(&format!("the admin token {token} was revoked"))?;
    }
    Ok(0)
}

/// Issues a token and prints only the token on standard output, so that `$(…)` captures nothing else.
async fn issue(session: &Session<'_>, name: &str, order: IssueToken) -> Result<u8, Failure> {
    let issued: IssuedToken = session.client.post(&format!("{}/tokens", workspace(name)), &order).await?;
    if session.out.json() {
        session.out.value(&issued)?;
        return Ok(0);
    }
    session.out.line(&issued.auth_token)?;
    output::note(&format!("This token is for {name}. It cannot be shown again."));
    Ok(0)
}

async fn ls(session: &Session<'_>, name: &str) -> Result<u8, Failure> {
    let list: TokenList = session.client.get(&format!("{}/tokens", workspace(name))).await?;
    if session.out.json() {
        session.out.value(&list)?;
    } else if list.tokens.is_empty() {
        output::note(&format!("{name} has no valid tokens."));
    } else {
        let rows = list.tokens.iter().map(row).collect();
        session.out.table(["ID", "PREFIX", "KIND", "CREATED", "LAST USED", "EXPIRES"], rows)?;
    }
    Ok(0)
}

fn row(token: &TokenView) -> [Cell; 6] {
    [
        text::short(&token.id).into(),
        format!("{}…", token.prefix).into(),
        token.kind.as_str().into(),
        text::local(&token.created_at).into(),
        token.last_used_at.as_deref().map_or_else(|| "never".to_owned(), text::local).into(),
        token.expires_at.as_deref().map_or_else(|| "never".to_owned(), text::local).into(),
    ]
}

/// Expands a unique prefix of a token's id to the whole id. Returns any other text unchanged: the daemon reports the
/// error.
async fn full_id(session: &Session<'_>, name: &str, beginning: &str) -> Result<String, Failure> {
    let list: TokenList = session.client.get(&format!("{}/tokens", workspace(name))).await?;
    let mut fitting = list.tokens.into_iter().filter(|token| token.id.starts_with(beginning));
    match (fitting.next(), fitting.next()) {
        (Some(only), None) => Ok(only.id),
        _ => Ok(beginning.to_owned()),
    }
}

async fn revoke(session: &Session<'_>, name: &str, token: &str) -> Result<u8, Failure> {
    let id = full_id(session, name, token).await?;
    let path = format!("{}/tokens/{}", workspace(name), segment(&id));
    let outcome: serde_json::Value = session.client.delete(&path).await?;
    if session.out.json() {
        session.out.value(&outcome)?;
    } else {
        session.out.line(&format!("the token {token} of {name} was revoked"))?;
    }
    Ok(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn token_expires_after_at_least_a_second() {
        assert_eq!(lifetime("30d"), Ok(Duration::from_hours(720)));
        for wrong in ["", "30", "-1h", "500ms", "soon"] {
            assert!(lifetime(wrong).is_err(), "{wrong:?} was accepted as a duration");
        }
    }
}
