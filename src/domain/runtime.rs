//! Runtimes: the kinds of agents and their requirements.

use std::{fmt, str::FromStr, time::Duration};

use serde::{Deserialize, Serialize};

/// Default runtime: for any image, without the wire protocol.
pub const PLAIN: &str = "plain";

/// Built-in runtime for agents that use the wire protocol.
pub const AGENT: &str = "agent";

/// Condition under which a started workspace is online.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Readiness {
    /// Its container has run for two seconds. For images without the wire protocol.
    Container,
    /// Its first heartbeat was received.
    Heartbeat,
}

/// The uid and gid of the agent's process, its volumes and its token file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct User {
    /// User id inside the container.
    pub uid: u32,
    /// Group id inside the container.
    pub gid: u32,
}

impl Default for User {
    /// 1000:1000, the user of existing agent images (wire protocol, §8).
    fn default() -> Self {
        Self { uid: 1000, gid: 1000 }
    }
}

impl fmt::Display for User {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.uid, self.gid)
    }
}

/// A text that is not `uid:gid`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a user: expected numbers as `uid:gid`, such as `1000:1000`")]
pub struct InvalidUser(pub String);

impl FromStr for User {
    type Err = InvalidUser;
    fn from_str(text: &str) -> Result<Self, InvalidUser> {
        let invalid = || InvalidUser(text.to_owned());
        let (uid, gid) = text.split_once(':').unwrap_or((text, text));
        Ok(Self { uid: uid.parse().map_err(|_| invalid())?, gid: gid.parse().map_err(|_| invalid())? })
    }
}

impl TryFrom<String> for User {
    type Error = InvalidUser;
    fn try_from(text: String) -> Result<Self, InvalidUser> {
        text.parse()
    }
}

impl From<User> for String {
    fn from(user: User) -> Self {
        user.to_string()
    }
}

/// Upper limits on the resources of a container.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Limits {
    /// Memory in bytes, including swap.
    pub memory_bytes: u64,
    /// Processor time in cores.
    pub cpus: f64,
    /// Number of processes and threads.
    pub pids: u32,
}

/// Resource tier of a workspace, 1 to 4 (wire protocol, §8).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "u8", into = "u8")]
pub struct Tier(u8);

impl Tier {
    /// Read-only root file system, a tmpfs on `/tmp`, no `/workspace`.
    pub const SANDBOX: Self = Self(1);

    /// The number, 1 to 4.
    #[must_use]
    pub fn number(self) -> u8 {
        self.0
    }

    /// Limits of this tier, unless the runtime overrides them.
    #[must_use]
    pub fn limits(self) -> Limits {
        let (mib, cpus) = match self.0 {
            1 | 2 => (512, 1.0),
            3 => (2048, 2.0),
            _ => (4096, 4.0),
        };
        Limits { memory_bytes: mib * 1024 * 1024, cpus, pids: 512 }
    }
}

impl Default for Tier {
    fn default() -> Self {
        Self(2)
    }
}

/// A number that is not a tier.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("tier {0} does not exist: choose 1 (sandbox), 2 (512 MiB), 3 (2 GiB) or 4 (4 GiB)")]
pub struct InvalidTier(pub u8);

impl TryFrom<u8> for Tier {
    type Error = InvalidTier;
    fn try_from(number: u8) -> Result<Self, InvalidTier> {
        if (1..=4).contains(&number) { Ok(Self(number)) } else { Err(InvalidTier(number)) }
    }
}

impl From<Tier> for u8 {
    fn from(tier: Tier) -> Self {
        tier.0
    }
}

/// A runtime as configured.
#[derive(Clone, Debug, PartialEq)]
pub struct Runtime {
    /// Image of workspaces for which no image is given.
    pub image: Option<String>,
    /// Command of workspaces for which no command is given; if empty, the image's own command.
    pub command: Vec<String>,
    /// User of the agent's process.
    pub user: User,
    /// Condition for being online.
    pub readiness: Readiness,
    /// Memory limit that overrides the tier's.
    pub memory_bytes: Option<u64>,
    /// Processor limit that overrides the tier's.
    pub cpus: Option<f64>,
    /// Process limit that overrides the tier's.
    pub pids: Option<u32>,
    /// Maximum time between the start of the container and the status online. A start that takes longer has failed.
    pub provisioning_limit: Duration,
    /// Time between the stop signal and the kill.
    pub stop_grace: Duration,
    /// Variables added to the environment of every container.
    pub env: std::collections::BTreeMap<String, String>,
    /// Content of `/configs/config.yaml` for workspaces that are created without a configuration.
    pub config_template: Option<String>,
    /// Tiers whose containers run privileged. Empty by default.
    pub privileged_tiers: Vec<Tier>,
}

impl Runtime {
    /// The built-in runtime for images without the protocol.
    #[must_use]
    pub fn plain() -> Self {
        Self {
            image: None,
            command: Vec::new(),
            user: User::default(),
            readiness: Readiness::Container,
            memory_bytes: None,
            cpus: None,
            pids: None,
            provisioning_limit: Duration::from_mins(12),
            stop_grace: Duration::from_secs(10),
            env: std::collections::BTreeMap::new(),
            config_template: None,
            privileged_tiers: Vec::new(),
        }
    }

    /// The built-in runtime for agents that use the wire protocol.
    #[must_use]
    pub fn agent() -> Self {
        Self { readiness: Readiness::Heartbeat, ..Self::plain() }
    }

    /// The limits of a workspace with this runtime in that tier.
    #[must_use]
    pub fn limits(&self, tier: Tier) -> Limits {
        let base = tier.limits();
        Limits {
            memory_bytes: self.memory_bytes.unwrap_or(base.memory_bytes),
            cpus: self.cpus.unwrap_or(base.cpus),
            pids: self.pids.unwrap_or(base.pids),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runtime_user_must_be_numeric_uid_and_optional_gid() {
        assert_eq!("1000:2000".parse::<User>().unwrap(), User { uid: 1000, gid: 2000 });
        assert_eq!("7".parse::<User>().unwrap(), User { uid: 7, gid: 7 });
        assert!("agent".parse::<User>().unwrap_err().to_string().contains("`agent`"));
    }

    #[test]
    fn runtime_overrides_limits_of_its_tier_individually() {
        let runtime = Runtime { cpus: Some(0.5), ..Runtime::plain() };
        let limits = runtime.limits(Tier::try_from(3).unwrap());
        assert!((limits.cpus - 0.5).abs() < f64::EPSILON);
        assert_eq!(limits.memory_bytes, 2048 * 1024 * 1024);
    }
}
