//! Simulated operators: each gives commands to a tree of its own and remembers the answers.
//!
//! No other operator gives commands to those workspaces. So the final state must agree with the last answered command,
//! whatever failed in the meantime. If a command got no clear answer (the daemon was killed, the engine was
//! unavailable), the states before and after it are both accepted.

use std::sync::atomic::Ordering;

use serde_json::Value;

use super::{MARKER, Operator, Record, any, create_workspace, pause, text};
use crate::support::{
    podman::{directory_of, has_volume},
    rng::Rng,
};

/// Maximum number of members of a tree.
const MOST_MEMBERS: usize = 20;
/// Time limit of a command, in seconds.
const LIMIT: u32 = 60;
/// Exit code of a command that no daemon answered.
const NOT_ANSWERED: i32 = 5;
/// Maximum number of repetitions, at the end, of a command without a clear answer.
const TRIES: usize = 10;

/// The kind of a workspace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum MemberKind {
    Plain,
    Agent,
    External,
}

/// State of a workspace according to the last answer to its operator.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum KnownState {
    /// Up, or about to be.
    Up,
    /// Hibernated.
    Hibernated,
    /// Stopped; holds the ancestor that was stopped, if it was stopped together with one.
    Stopped(Option<usize>),
    Removed,
    /// No clear answer.
    Unclear,
}

/// A workspace, according to its operator's record.
pub(super) struct Member {
    pub(super) name: String,
    pub(super) parent: Option<usize>,
    pub(super) kind: MemberKind,
    pub(super) known_state: KnownState,
}

/// An operator's workspaces, parents before children.
pub(super) struct Tree {
    pub(super) members: Vec<Member>,
    root: String,
}

impl Tree {
    /// A root, three children, seven grandchildren, and on most trees an external one.
    pub(super) fn new(root: &str, rng: &mut Rng) -> Self {
        let mut tree = Self { members: Vec::new(), root: root.to_owned() };
        tree.push(root.to_owned(), None, MemberKind::Plain);
        for number in 0..10 {
            let parent = if number < 3 { 0 } else { 1 + rng.below(3) };
            let kind = if rng.below(4) == 0 { MemberKind::Agent } else { MemberKind::Plain };
            tree.push(format!("{root}-{number}"), Some(parent), kind);
        }
        if root != "t0" {
            tree.push(format!("{root}-elsewhere"), Some(1), MemberKind::External);
        }
        tree
    }

    /// A parent and its child.
    pub(super) fn of_two(root: &str, kind: MemberKind) -> Self {
        let mut tree = Self { members: Vec::new(), root: root.to_owned() };
        tree.push(root.to_owned(), None, kind);
        tree.push(format!("{root}-child"), Some(0), kind);
        tree
    }

    fn push(&mut self, name: String, parent: Option<usize>, kind: MemberKind) -> usize {
        self.members.push(Member { name, parent, kind, known_state: KnownState::Unclear });
        self.members.len() - 1
    }

    /// Starts the record with all members up.
    pub(super) fn record_all_up(&mut self) {
        for member in &mut self.members {
            member.known_state = KnownState::Up;
        }
    }

    fn below(&self, at: usize) -> Vec<usize> {
        let mut below = vec![at];
        for (index, member) in self.members.iter().enumerate() {
            if member.parent.is_some_and(|parent| below.contains(&parent)) {
                below.push(index);
            }
        }
        below.retain(|index| *index != at);
        below
    }

    /// Whether all ancestors are up or hibernated. Below an ancestor that is or may be stopped, nothing starts.
    fn is_free(&self, at: usize) -> bool {
        let mut above = self.members[at].parent;
        while let Some(parent) = above {
            if !matches!(self.members[parent].known_state, KnownState::Up | KnownState::Hibernated) {
                return false;
            }
            above = self.members[parent].parent;
        }
        true
    }
}

/// A simulated operator.
pub(super) struct User<'a> {
    pub(super) tree: &'a mut Tree,
    pub(super) operator: Operator,
    pub(super) record: &'a Record,
    pub(super) rng: Rng,
    /// Whether answers are recorded and checked. Without a record, any command is given at any time.
    pub(super) keeps_record: bool,
    /// Average interval between two commands, in milliseconds.
    pub(super) between_commands: usize,
    /// Whether it also creates workspaces.
    pub(super) may_create: bool,
    /// Whether it repeats commands without a clear answer at the end.
    pub(super) makes_sure: bool,
}

impl User<'_> {
    /// Gives commands until the run is over.
    pub(super) fn run(mut self) {
        while !self.record.over.load(Ordering::Acquire) {
            match self.rng.below(12) {
                0 => self.inspect_all(),
                1 if self.may_create && self.tree.members.len() < MOST_MEMBERS => self.create(),
                _ => self.order(),
            }
            pause(&mut self.rng, self.between_commands);
        }
        if self.makes_sure {
            self.make_sure();
        }
        if !self.keeps_record {
            for member in &mut self.tree.members {
                member.known_state = KnownState::Unclear;
            }
        }
    }

    /// Stops each workspace whose state is unclear; repeats the command until it is answered.
    fn make_sure(&mut self) {
        for at in 0..self.tree.members.len() {
            for _ in 0..TRIES {
                if self.tree.members[at].known_state != KnownState::Unclear {
                    break;
                }
                self.stop(at);
                if self.tree.members[at].known_state == KnownState::Unclear {
                    let name = self.tree.members[at].name.clone();
                    self.run_and_record(at, &["undelete", &name], KnownState::Stopped(None));
                }
            }
        }
    }

    /// Runs a command and counts its result.
    fn run_command(&self, arguments: &[&str]) -> i32 {
        let output = self.operator.ostler(LIMIT, arguments.iter().copied());
        let verb = arguments[0];
        self.record.count(format!("ostler {verb}"));
        if output.code != NOT_ANSWERED {
            self.record.answered.fetch_add(1, Ordering::AcqRel);
        }
        if output.code != 0 {
            self.record.count(format!("ostler {verb}, answered with exit code {}", output.code));
        }
        let last = output.stderr.lines().next().unwrap_or_default();
        self.record.print(format!("ostler {}: {} {last}", arguments.join(" "), output.code));
        output.code
    }

    fn inspect_all(&mut self) {
        let name = self.tree.members[self.rng.below(self.tree.members.len())].name.clone();
        match self.rng.below(5) {
            0 => drop(self.run_command(&["ls"])),
            1 => drop(self.run_command(&["why", &name])),
            2 => drop(self.run_command(&["show", &name])),
            3 => drop(self.run_command(&["sweep", "run"])),
            _ => drop(self.run_command(&["doctor"])),
        }
    }

    fn create(&mut self) {
        let parents: Vec<usize> = (0..4)
            .filter(|at| self.tree.members[*at].known_state == KnownState::Up && self.tree.is_free(*at))
            .collect();
        let Some(parent) = any(&mut self.rng, &parents).copied() else { return };
        let kind = if self.rng.below(4) == 0 { MemberKind::Agent } else { MemberKind::Plain };
        let name = format!("{}-{}", self.tree.root, self.tree.members.len());
        let code =
            create_workspace(&self.operator, &name, kind, Some(&self.tree.members[parent].name), false);
        self.record.count("ostler create");
        self.record.print(format!("ostler create {name}: {code}"));
        let at = self.tree.push(name.clone(), Some(parent), kind);
        if code == 0 {
            self.tree.members[at].known_state = KnownState::Up;
            self.mark(&name);
        }
    }

    /// Writes a marker into a new workspace's work volume, which existed when it came online and is never deleted.
    fn mark(&mut self, name: &str) {
        let shown = self.operator.ostler(LIMIT, ["show", name, "--json"]);
        let Ok(row) = serde_json::from_str::<Value>(&shown.stdout) else { return };
        let id = text(&row["id"]);
        let volume = format!("ostler-{id}-work");
        if has_volume(&volume) && !directory_of(&volume).join(MARKER).exists() {
            self.record.mark(&id, &directory_of(&volume), &mut self.rng);
        }
    }

    /// Gives a command that can succeed, according to this operator's record.
    #[allow(clippy::match_same_arms, reason = "a row for each state and share of the numbers")]
    fn order(&mut self) {
        let at = self.rng.below(self.tree.members.len());
        let Member { name, kind, known_state, .. } = &self.tree.members[at];
        let (name, kind, known_state) = (name.clone(), *kind, *known_state);
        if kind == MemberKind::External {
            return;
        }
        if self.keeps_record && !self.tree.is_free(at) {
            // An ancestor has to be started first; the next command may choose it.
            return;
        }
        let below = self.tree.below(at);
        let has_children =
            below.iter().any(|child| self.tree.members[*child].known_state != KnownState::Removed);
        // On a workspace with descendants, commands that affect them are given four times less often.
        let seldom = below.is_empty() || self.rng.below(4) == 0;
        match (known_state, self.rng.below(10)) {
            (KnownState::Up, 0..=2) => drop(self.run_command(&["restart", &name])),
            (KnownState::Up, 3) => drop(self.run_command(&["recreate", &name])),
            (KnownState::Up, 4) => {
                self.run_and_record(at, &["hibernate", "--force", &name], KnownState::Hibernated);
            }
            (KnownState::Up, 5) if !has_children => {
                self.run_and_record(at, &["rm", &name], KnownState::Removed);
            }
            (KnownState::Up, 6 | 7) if seldom => self.stop(at),
            (KnownState::Up, _) if kind == MemberKind::Agent => {
                self.run_command(&["message", &name, "hello"]);
            }
            (KnownState::Up, _) => drop(self.run_command(&["exec", &name, "--", "true"])),
            (KnownState::Hibernated, 0..=3) if kind == MemberKind::Agent => {
                self.run_and_record(at, &["message", &name, "good morning"], KnownState::Up);
            }
            (KnownState::Hibernated, 0..=7) => self.run_and_record(at, &["wake", &name], KnownState::Up),
            (KnownState::Hibernated, _) => self.stop(at),
            (KnownState::Stopped(_), 0..=7) => self.start(at),
            (KnownState::Stopped(_), _) if !has_children => {
                self.run_and_record(at, &["rm", &name], KnownState::Removed);
            }
            (KnownState::Stopped(_), _) => self.start(at),
            (KnownState::Removed, 0..=5) => {
                self.run_and_record(at, &["undelete", &name], KnownState::Stopped(None));
            }
            (KnownState::Removed, _) => {}
            (KnownState::Unclear, 0..=4) => self.stop(at),
            (KnownState::Unclear, 5) if !has_children => {
                self.run_and_record(at, &["rm", &name], KnownState::Removed);
            }
            (KnownState::Unclear, _) => self.start(at),
        }
    }

    /// Runs a command and records its result, or that it is unclear.
    fn run_and_record(&mut self, at: usize, arguments: &[&str], otherwise: KnownState) {
        let code = self.run_command(arguments);
        self.tree.members[at].known_state = if code == 0 { otherwise } else { KnownState::Unclear };
    }

    /// Stops a workspace and its descendants.
    fn stop(&mut self, at: usize) {
        let name = self.tree.members[at].name.clone();
        let stopped = self.run_command(&["stop", &name]) == 0;
        for below in self.tree.below(at) {
            let member = &mut self.tree.members[below];
            member.known_state = match member.known_state {
                KnownState::Removed => KnownState::Removed,
                // A member that was already stopped keeps the record of the earlier stop.
                KnownState::Stopped(with) if stopped => KnownState::Stopped(with),
                KnownState::Up | KnownState::Hibernated if stopped => KnownState::Stopped(Some(at)),
                KnownState::Up | KnownState::Hibernated | KnownState::Stopped(_) | KnownState::Unclear => {
                    KnownState::Unclear
                }
            };
        }
        self.tree.members[at].known_state =
            if stopped { KnownState::Stopped(None) } else { KnownState::Unclear };
    }

    /// Starts a workspace and what was stopped together with it.
    fn start(&mut self, at: usize) {
        let name = self.tree.members[at].name.clone();
        let started = self.run_command(&["start", &name]) == 0;
        for below in self.tree.below(at) {
            let member = &mut self.tree.members[below];
            member.known_state = match member.known_state {
                KnownState::Stopped(Some(with)) if with == at && started => KnownState::Up,
                KnownState::Removed => KnownState::Removed,
                KnownState::Stopped(Some(with)) if with != at => KnownState::Stopped(Some(with)),
                KnownState::Stopped(None) => KnownState::Stopped(None),
                KnownState::Up
                | KnownState::Hibernated
                | KnownState::Stopped(Some(_))
                | KnownState::Unclear => KnownState::Unclear,
            };
        }
        self.tree.members[at].known_state = if started { KnownState::Up } else { KnownState::Unclear };
    }
}
