//! The commands. Each has a file with its arguments, its help and its `run`, and in this file a `mod` line, a variant of
//! [`Command`] and a line of [`Command::run`].

mod adopt;
mod completions;
mod config;
mod create;
mod doctor;
mod events;
mod exec;
mod hibernate;
mod logs;
mod ls;
mod man;
mod message;
mod operations;
mod recreate;
mod reload;
mod restart;
mod rm;
mod serve;
mod set;
mod shell;
mod show;
mod start;
mod stop;
mod sweep;
mod token;
mod trash;
mod undelete;
mod wake;
mod why;

use super::{Host, Session, client::Client, failure::Failure, output::Output};

/// A command. Its help is the documentation of its `Args`.
#[derive(Debug, clap::Subcommand)]
pub(super) enum Command {
    Serve(serve::Args),
    Create(Box<create::Args>),
    #[command(visible_alias = "list")]
    Ls(ls::Args),
    #[command(visible_alias = "inspect")]
    Show(show::Args),
    Logs(logs::Args),
    Exec(exec::Args),
    #[command(visible_alias = "sh")]
    Shell(shell::Args),
    #[command(visible_alias = "resume")]
    Start(start::Args),
    #[command(visible_alias = "pause")]
    Stop(stop::Args),
    #[command(visible_alias = "sleep")]
    Hibernate(hibernate::Args),
    Wake(wake::Args),
    #[command(visible_alias = "ask")]
    Message(message::Args),
    #[command(visible_alias = "edit")]
    Set(Box<set::Args>),
    Restart(restart::Args),
    Recreate(recreate::Args),
    #[command(visible_aliases = ["remove", "delete"])]
    Rm(rm::Args),
    Undelete(undelete::Args),
    Trash(trash::Args),
    Adopt(adopt::Args),
    #[command(visible_alias = "tokens")]
    Token(token::Args),
    #[command(visible_alias = "sweeps")]
    Sweep(sweep::Args),
    #[command(visible_alias = "ops")]
    Operations(operations::Args),
    Events(events::Args),
    Why(why::Args),
    Doctor(doctor::Args),
    Config(config::Args),
    Reload(reload::Args),
    Completions(completions::Args),
    Man(man::Args),
}

impl Command {
    /// Whether `--json` applies to this command. It does not apply to commands whose output has its own format: logs,
    /// the output of another program, a script or a manual page.
    pub(super) fn has_json(&self) -> bool {
        !matches!(self, Self::Serve(_) | Self::Exec(_) | Self::Shell(_) | Self::Completions(_) | Self::Man(_))
    }

    /// Runs the command. Returns the process's exit code.
    pub(super) async fn run(self, out: Output, host: &dyn Host) -> Result<u8, Failure> {
        // Created only by the commands that need it: the others have to work with an invalid configuration.
        let session = || Ok::<_, Failure>(Session { client: Client::new(host.socket()?), out, host });
        match self {
            Self::Serve(serve::Args) => serve::run(host).await,
            Self::Create(args) => create::run(&session()?, *args).await,
            Self::Ls(args) => ls::run(&session()?, &args).await,
            Self::Show(args) => show::run(&session()?, &args).await,
            Self::Logs(args) => logs::run(&session()?, &args).await,
            Self::Exec(args) => exec::run(&session()?, args).await,
            Self::Shell(args) => shell::run(&session()?, args).await,
            Self::Start(args) => start::run(&session()?, &args).await,
            Self::Stop(args) => stop::run(&session()?, &args).await,
            Self::Hibernate(args) => hibernate::run(&session()?, &args).await,
            Self::Wake(args) => wake::run(&session()?, &args).await,
            Self::Message(args) => message::run(&session()?, args).await,
            Self::Set(args) => set::run(&session()?, *args).await,
            Self::Restart(args) => restart::run(&session()?, &args).await,
            Self::Recreate(args) => recreate::run(&session()?, &args).await,
            Self::Rm(args) => rm::run(&session()?, &args).await,
            Self::Undelete(args) => undelete::run(&session()?, args).await,
            Self::Trash(args) => trash::run(&session()?, args).await,
            Self::Adopt(args) => adopt::run(&session()?, args).await,
            Self::Token(args) => token::run(&session()?, args).await,
            Self::Sweep(args) => sweep::run(&session()?, args).await,
            Self::Operations(args) => operations::run(&session()?, args).await,
            Self::Events(args) => events::run(&session()?, &args).await,
            Self::Why(args) => why::run(&session()?, &args).await,
            Self::Doctor(args) => doctor::run(&session()?, &args).await,
            Self::Config(args) => config::run(out, host, &args).await,
            Self::Reload(reload::Args) => reload::run(&session()?).await,
            Self::Completions(args) => completions::run(out, &args),
            Self::Man(args) => man::run(out, &args),
        }
    }
}
