//! `ostler set`

use crate::{
    api::{PatchWorkspace, Patched},
    cli::{
        Session,
        args::SetArgs,
        client::workspace,
        failure::{Exit, Failure},
        output,
    },
};

use super::order::quoted;

pub(in crate::cli) async fn run(session: &Session<'_>, args: SetArgs) -> Result<u8, Failure> {
    let SetArgs {
        name,
        new_name,
        role,
        tier,
        parent,
        runtime,
        image,
        url,
        sleep_after,
        max_tasks,
        restart_when_wedged,
    } = args;
    let called = new_name.clone().unwrap_or_else(|| name.clone());
    let patch = PatchWorkspace {
        name: new_name,
        role,
        tier,
        parent_id: parent,
        runtime,
        image,
        url,
        hibernation_idle_minutes: sleep_after,
        max_concurrent_tasks: max_tasks,
        restart_when_wedged,
    };
    if patch == PatchWorkspace::default() {
        let failure = Failure::new(Exit::Usage, "nothing was given to change");
        return Err(failure.next("`ostler set --help` shows what there is"));
    }
    let patched: Patched = session.client.patch(&workspace(&name), &patch).await?;
    if session.out.json() {
        session.out.value(&patched)?;
        return Ok(0);
    }
    session.out.line(&format!("{called} is changed"))?;
    if patched.needs_recreate {
        output::note(&format!("It takes effect in a new container: `ostler recreate {}`.", quoted(&called)));
    } else if patched.needs_restart {
        output::note(&format!("It takes effect at its next start: `ostler restart {}`.", quoted(&called)));
    }
    Ok(0)
}
