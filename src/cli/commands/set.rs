//! `ostler set`

use std::path::PathBuf;

use clap::builder::NonEmptyStringValueParser;

use crate::{
    api::{spec::PatchWorkspace, workspace::Patched},
    cli::{
        client::workspace,
        failure::{Exit, Failure},
        inputs, output,
        session::Session,
        text::{printable, quoted},
    },
};

/// Change settings of a workspace, such as name, tier or environment
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Settings that are not given keep their values. Settings of the container, such as image, command and environment,
take effect with `ostler recreate`.

Examples:
  ostler set builder --hibernate-after 30
  ostler set builder --parent lead
  ostler set builder --name tester --role 'runs the tests'
  ostler set builder --env LEVEL=debug --unset-env API_KEY
  ostler set builder -- serve --all && ostler recreate builder")]
pub(in crate::cli) struct Args {
    /// Name, id or prefix of the id
    #[arg(value_parser = NonEmptyStringValueParser::new())]
    name: String,
    /// New name
    #[arg(long = "name", id = "new_name", value_name = "NAME")]
    new_name: Option<String>,
    /// Description of the workspace's purpose; an empty text removes the description
    #[arg(long)]
    role: Option<String>,
    /// Resource tier: 1 (sandbox), 2 (512 MiB), 3 (2 GiB) or 4 (4 GiB)
    #[arg(long, value_parser = clap::value_parser!(u8).range(1..=4), allow_negative_numbers = true)]
    tier: Option<u8>,
    /// Parent workspace; with an empty text, the workspace has no parent
    #[arg(long, value_name = "NAME")]
    parent: Option<String>,
    /// Runtime: `plain`, `agent`, or one defined in `[runtimes]` of the configuration
    #[arg(long)]
    runtime: Option<String>,
    /// Container image
    #[arg(long)]
    image: Option<String>,
    /// Environment variable to set; others are kept. Without `=VALUE`, the value is taken from this shell's environment
    #[arg(long, short, value_name = "KEY[=VALUE]")]
    env: Vec<String>,
    /// File of KEY=VALUE lines to set; `--env` takes precedence
    #[arg(long, value_name = "FILE")]
    env_file: Option<PathBuf>,
    /// Environment variable to remove
    #[arg(long, value_name = "KEY", value_parser = NonEmptyStringValueParser::new())]
    unset_env: Vec<String>,
    /// Directory of this machine to mount at /workspace; only for a workspace that was created with `--dir`
    #[arg(long, value_name = "PATH[:ro]")]
    dir: Option<String>,
    /// File to copy to /configs/config.yaml at the next start, which overwrites the existing file
    #[arg(long, value_name = "FILE")]
    config_file: Option<PathBuf>,
    /// Remove the workspace's own command, so that the command of the runtime or image is run
    #[arg(long, conflicts_with = "command")]
    default_command: bool,
    /// URL at which the external agent is reached; an empty text removes the URL
    #[arg(long)]
    url: Option<String>,
    /// Hibernate after this many idle minutes; 0 means never
    #[arg(long, value_name = "MINUTES", allow_negative_numbers = true)]
    hibernate_after: Option<u32>,
    /// Number of concurrent tasks that the agent accepts; 0 means unknown
    #[arg(long, value_name = "TASKS", allow_negative_numbers = true)]
    max_tasks: Option<u32>,
    /// Whether to restart the workspace when it is stalled: busy for 5 minutes without heartbeat, message or progress
    #[arg(long, value_name = "BOOL")]
    restart_when_wedged: Option<bool>,
    /// Command to run instead of the image's own; if the image has an ENTRYPOINT, it receives these arguments
    #[arg(last = true, value_name = "CMD")]
    command: Vec<String>,
}

pub(in crate::cli) async fn run(session: &Session<'_>, args: Args) -> Result<u8, Failure> {
    let given = inputs::variables(&args.env, args.env_file.as_deref())?;
    if let Some(key) = args.unset_env.iter().find(|key| given.contains_key(*key)) {
        return Err(Failure::new(Exit::Usage, format!("the variable {key} is both set and removed")));
    }
    let given = given.into_iter().map(|(key, value)| (key, Some(value)));
    let (workspace_dir, workspace_access) = args.dir.map(|dir| inputs::directory(&dir)).transpose()?.unzip();
    let called = args.new_name.clone().unwrap_or_else(|| args.name.clone());
    let patch = PatchWorkspace {
        name: args.new_name,
        role: args.role,
        tier: args.tier,
        parent_id: args.parent,
        runtime: args.runtime,
        image: args.image,
        command: (args.default_command || !args.command.is_empty()).then_some(args.command),
        env: given.chain(args.unset_env.into_iter().map(|key| (key, None))).collect(),
        workspace_dir,
        workspace_access,
        config: args.config_file.map(|file| inputs::read(&file)).transpose()?,
        url: args.url,
        hibernation_idle_minutes: args.hibernate_after,
        max_concurrent_tasks: args.max_tasks,
        restart_when_wedged: args.restart_when_wedged,
    };
    if patch == PatchWorkspace::default() {
        let failure = Failure::new(Exit::Usage, "no setting to change was given");
        return Err(failure.next("`ostler set --help` lists the settings"));
    }
    let patched: Patched = session.client.patch(&workspace(&args.name), &patch).await?;
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
