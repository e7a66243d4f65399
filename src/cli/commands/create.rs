//! `ostler create`

use std::path::PathBuf;

use clap::builder::NonEmptyStringValueParser;

use crate::{
    api::{
        spec::CreateWorkspace,
        workspace::{Connection, CreatedWorkspace},
    },
    cli::{
        failure::Failure,
        inputs::{directory, read, variables},
        order, output,
        session::Session,
        spinner,
        text::printable,
    },
};

/// Create a workspace and start its container
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Waits until the workspace is online, or reports why it is not.

Examples:
  ostler create builder --image docker.io/library/alpine:3 -- sleep infinity
  ostler create tester --parent builder --runtime agent --env-file test.env
  ostler create notes --image agent:1 --dir ~/notes:ro
  ostler create phone --external            print the token and URLs for its agent")]
#[expect(clippy::struct_excessive_bools, reason = "each is a flag of the command line")]
pub(in crate::cli) struct Args {
    /// Name of the workspace: letters and digits, and between them `-`, `_`, `.` and single spaces
    #[arg(value_parser = NonEmptyStringValueParser::new())]
    name: String,
    /// Container image [default: the runtime's]
    #[arg(long)]
    image: Option<String>,
    /// Parent workspace in the tree [default: none]
    #[arg(long, value_name = "NAME")]
    parent: Option<String>,
    /// Description of the workspace's purpose
    #[arg(long)]
    role: Option<String>,
    /// Runtime: `plain` for any image, `agent` for an agent that sends heartbeats, or one defined in `[runtimes]` of
    /// the configuration [default: plain]
    #[arg(long)]
    runtime: Option<String>,
    /// Resource tier: 1 (sandbox: 512 MiB, 1 CPU, read-only file system, no /workspace), 2 (512 MiB, 1 CPU),
    /// 3 (2 GiB, 2 CPUs) or 4 (4 GiB, 4 CPUs) [default: 2]
    #[arg(long, value_parser = clap::value_parser!(u8).range(1..=4), allow_negative_numbers = true)]
    tier: Option<u8>,
    /// Environment variable of the container; without `=VALUE`, the value is taken from this shell's environment
    #[arg(long, short, value_name = "KEY[=VALUE]")]
    env: Vec<String>,
    /// File of KEY=VALUE lines; `--env` takes precedence. Lines that begin with `#` are comments; a value is everything
    /// after `=`, including quotes and `#`
    #[arg(long, value_name = "FILE")]
    env_file: Option<PathBuf>,
    /// Directory of this machine to mount at /workspace instead of a volume; `:ro` makes it read-only
    #[arg(long, value_name = "PATH[:ro]")]
    dir: Option<String>,
    /// File to copy to /configs/config.yaml in the container
    #[arg(long, value_name = "FILE")]
    config_file: Option<PathBuf>,
    /// Register an agent that runs elsewhere; no container is created
    #[arg(long, conflicts_with_all = ["image", "env", "env_file", "dir", "config_file", "command"])]
    external: bool,
    /// URL at which the external agent is reached, such as `http://192.168.1.7:8000`
    #[arg(long, requires = "external")]
    url: Option<String>,
    /// The agent polls for its messages: ostler stores them until then, instead of sending them to a URL
    #[arg(long, requires = "external", conflicts_with = "url")]
    poll: bool,
    /// Hibernate after this many idle minutes; a message wakes the workspace; 0 means never [default: 0]
    #[arg(long, value_name = "MINUTES", conflicts_with = "external", allow_negative_numbers = true)]
    hibernate_after: Option<u32>,
    /// Number of concurrent tasks that the agent accepts, as information for its peers; not enforced
    #[arg(long, value_name = "TASKS", allow_negative_numbers = true)]
    max_tasks: Option<u32>,
    /// Restart the workspace when it is stalled: busy for 5 minutes without heartbeat, message or progress
    #[arg(long, conflicts_with = "external")]
    restart_when_wedged: bool,
    /// Return when the request is accepted, without waiting until the workspace is online
    #[arg(long)]
    no_wait: bool,
    /// Command to run instead of the image's own; if the image has an ENTRYPOINT, it receives these arguments
    #[arg(last = true, value_name = "CMD")]
    command: Vec<String>,
}

pub(in crate::cli) async fn run(session: &Session<'_>, args: Args) -> Result<u8, Failure> {
    let wait = !args.no_wait;
    let mut created: CreatedWorkspace = session.client.post("/workspaces", &request(args)?).await?;
    // Printed before the wait, because a note may announce a long wait.
    for note in created.notes.iter().filter(|_| !session.out.json()) {
        output::note(&printable(note));
    }
    let mut failure = None;
    let mut location = match created.operation_id.filter(|_| !wait) {
        Some(id) => format!(". Wait for its start: `ostler operations wait {id}`"),
        None => String::new(),
    };
    if wait && !created.external {
        let view = spinner::until_settled(session, &created.id, &created.name).await?;
        created.status.clone_from(&view.status);
        failure = order::not_up(&view);
        location = view.url.map(|url| format!(" at {url}")).unwrap_or_default();
    }
    if session.out.json() {
        session.out.value(&created)?;
    } else if failure.is_none() {
        order::print(session, &created.name, &created.status, &location)?;
        if let Some(connection) = &created.connection {
            show_connection(session, connection)?;
        }
    }
    failure.map_or(Ok(0), Err)
}

fn show_connection(session: &Session<'_>, connection: &Connection) -> Result<(), Failure> {
    let Connection { workspace_id, platform_url, auth_token, registry_endpoint, heartbeat_endpoint } =
        connection;
    for (key, value) in [
        ("workspace_id", workspace_id),
        ("platform_url", platform_url),
        ("auth_token", auth_token),
        ("registry_endpoint", registry_endpoint),
        ("heartbeat_endpoint", heartbeat_endpoint),
    ] {
        session.out.line(&format!("  {key:<18}  {value}"))?;
    }
    output::note("Store the token now: it cannot be shown again.");
    Ok(())
}

fn request(args: Args) -> Result<CreateWorkspace, Failure> {
    let variables = variables(&args.env, args.env_file.as_deref())?;
    let (workspace_dir, workspace_access) = args.dir.map(|dir| directory(&dir)).transpose()?.unzip();
    Ok(CreateWorkspace {
        name: args.name,
        external: args.external,
        role: args.role,
        runtime: args.runtime,
        image: args.image,
        command: args.command,
        tier: args.tier,
        parent_id: args.parent,
        url: args.url,
        workspace_dir,
        workspace_access,
        env: variables,
        config: args.config_file.map(|file| read(&file)).transpose()?,
        hibernation_idle_minutes: args.hibernate_after,
        max_concurrent_tasks: args.max_tasks,
        restart_when_wedged: args.restart_when_wedged,
        delivery_mode: args.poll.then(|| "poll".to_owned()),
    })
}
