//! `ostler set`

use crate::{
    api::workspace::{PatchWorkspace, Patched},
    cli::{
        Session,
        args::SetArgs,
        client::workspace,
        failure::{Exit, Failure},
        output,
        text::printable,
    },
};

use super::{create, order::quoted};

pub(in crate::cli) async fn run(session: &Session<'_>, args: SetArgs) -> Result<u8, Failure> {
    let SetArgs {
        name,
        new_name,
        role,
        tier,
        parent,
        runtime,
        image,
        env,
        env_file,
        unset_env,
        dir,
        config_file,
        default_command,
        url,
        hibernate_after,
        max_tasks,
        restart_when_wedged,
        command,
    } = args;
    let given = create::variables(&env, env_file.as_deref())?;
    if let Some(key) = unset_env.iter().find(|key| given.contains_key(*key)) {
        return Err(Failure::new(Exit::Usage, format!("the variable {key} is both set and removed")));
    }
    let given = given.into_iter().map(|(key, value)| (key, Some(value)));
    let (workspace_dir, workspace_access) = dir.map(|dir| create::directory(&dir)).transpose()?.unzip();
    let called = new_name.clone().unwrap_or_else(|| name.clone());
    let patch = PatchWorkspace {
        name: new_name,
        role,
        tier,
        parent_id: parent,
        runtime,
        image,
        command: (default_command || !command.is_empty()).then_some(command),
        env: given.chain(unset_env.into_iter().map(|key| (key, None))).collect(),
        workspace_dir,
        workspace_access,
        config: config_file.map(|file| create::read(&file)).transpose()?,
        url,
        hibernation_idle_minutes: hibernate_after,
        max_concurrent_tasks: max_tasks,
        restart_when_wedged,
    };
    if patch == PatchWorkspace::default() {
        let failure = Failure::new(Exit::Usage, "no setting to change was given");
        return Err(failure.next("`ostler set --help` lists the settings"));
    }
    let patched: Patched = session.client.patch(&workspace(&name), &patch).await?;
    if session.out.json() {
        session.out.value(&patched)?;
        return Ok(0);
    }
    session.out.line(&format!("{called} was changed"))?;
    for note in &patched.notes {
        output::note(&printable(note));
    }
    if patched.needs_recreate {
        output::note(&format!(
            "The change takes effect in a new container: `ostler recreate {}`.",
            quoted(&called)
        ));
    } else if patched.needs_restart {
        output::note(&format!(
            "The change takes effect at the next start: `ostler restart {}`.",
            quoted(&called)
        ));
    }
    Ok(0)
}
