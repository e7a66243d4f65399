//! `ostler rm`

use hyper::{Method, StatusCode};

use crate::{
    api::RemoveOutcome,
    cli::{
        Session,
        args::RmArgs,
        client::{self, NOTHING, workspace},
        failure::{Exit, Failure},
        spinner,
        text::count,
    },
};

use super::order::quoted;

pub(in crate::cli) async fn run(session: &Session<'_>, args: &RmArgs) -> Result<u8, Failure> {
    let path = format!("{}?confirm={}&purge={}", workspace(&args.name), args.cascade, args.purge);
    let order = session.client.ask(Method::DELETE, &path, NOTHING);
    let answer = spinner::while_carried_out(session, &args.name, order).await?;
    let outcome = read(&answer)?;
    let children = !outcome.children.is_empty() && outcome.status != "removed";
    if session.out.json() {
        session.out.value(&outcome)?;
    } else if !children {
        session.out.line(&told(args, &outcome))?;
    }
    if children { Err(has_children(args, &outcome)) } else { Ok(0) }
}

/// A conflict may be children, which the answer names, or anything else, which it explains.
fn read(answer: &client::Answer) -> Result<RemoveOutcome, Failure> {
    if answer.status == StatusCode::CONFLICT
        && let Ok(outcome) = serde_json::from_slice(&answer.body)
    {
        return Ok(outcome);
    }
    answer.read()
}

fn told(args: &RmArgs, outcome: &RemoveOutcome) -> String {
    let below = match outcome.cascade_deleted {
        0 => String::new(),
        number => format!(" and {} below it", count(number, "workspace", "workspaces")),
    };
    let name = &args.name;
    if args.purge {
        return format!("{name}{below} deleted for good");
    }
    format!("{name}{below} removed; `ostler undelete {}` takes it back", quoted(name))
}

fn has_children(args: &RmArgs, outcome: &RemoveOutcome) -> Failure {
    let names: Vec<_> = outcome.children.iter().map(|child| child.name.as_str()).collect();
    let number = outcome.children_count.max(names.len());
    let why = format!(
        "nothing was removed: {} has {} below it: {}",
        args.name,
        count(number, "workspace", "workspaces"),
        names.join(", ")
    );
    let next = format!("`ostler rm --cascade {}` removes them too", quoted(&args.name));
    Failure::new(Exit::Conflict, why).next(next)
}
