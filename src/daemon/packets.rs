//! Drops packets between workspaces, with a table for ostler in the kernel's packet filter (nftables).
//!
//! Podman's `isolate` option is not sufficient: netavark 1.4 removes the jump to its isolation rules whenever any
//! isolated container stops, and packets from networks without the option always pass. A packet that one nftables table
//! drops stays dropped whatever other tables accept, so the order among them does not matter. ostler's table names only
//! the subnets of workspaces. It is replaced in one transaction, so no packet passes during a reload.

use std::{fmt::Write as _, process::Stdio, sync::Mutex, time::Duration};

use tokio::{io::AsyncWriteExt as _, process::Command};

use crate::{
    domain::{duration::words, ids::InstanceId},
    engine::Subnet,
    runtime::clock::{Clock, within},
};

/// Time limit for `nft`. The task that serves the gateways of new networks waits for the command.
const LOADING: Duration = Duration::from_secs(10);

const NOT_DROPPED: &str = "packets between workspaces are not dropped, although `network.isolate` is set";

/// The table's name, and whether its last replacement succeeded.
#[derive(Debug)]
pub(super) struct Packets {
    table: String,
    state: Mutex<Result<(), String>>,
}

impl Packets {
    pub(super) fn new(instance: InstanceId) -> Self {
        // Each installation has its own table, so that none removes the rules of another.
        let table = format!("ostler_{}", instance.to_string().replace('-', "_"));
        Self { table, state: Mutex::new(Err("no workspace has a network yet".into())) }
    }

    /// Drops forwarded packets to these subnets, except replies and packets within one subnet. Packets from this host
    /// are not forwarded and pass. IPv6 subnets are ignored.
    pub(super) async fn isolate_subnets(&self, subnets: impl Iterator<Item = &Subnet>, clock: &dyn Clock) {
        let subnets: Vec<_> = subnets.filter(|subnet| subnet.address.is_ipv4()).collect();
        let applied = load("nft", rules(&self.table, &subnets), clock).await;
        if let Err(error) = &applied {
            tracing::warn!(%error, "{NOT_DROPPED}");
        }
        *self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = applied;
    }

    /// Records why packets cannot be dropped here, and warns once for each reason if dropping is configured.
    pub(super) fn cannot(&self, why: &str, is_wanted: bool) {
        let mut state = self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if is_wanted && state.as_ref().err().is_none_or(|known| known != why) {
            tracing::warn!(error = %why, "{NOT_DROPPED}");
        }
        *state = Err(why.to_owned());
    }

    /// `Ok` if packets are dropped, otherwise the reason why they are not.
    pub(super) fn state(&self) -> Result<(), String> {
        self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner).clone()
    }
}

/// Builds the `nft` script that replaces the table. The script first creates the table, because deleting a table that
/// does not exist would fail.
///
/// Packets within one subnet must pass. On hosts that also filter bridged traffic, they reach this chain. A subnet in
/// the table may meanwhile belong to another installation, whose containers must still reach each other.
fn rules(table: &str, subnets: &[&Subnet]) -> String {
    let drops = subnets.iter().fold(String::new(), |mut drops, subnet| {
        // Writing into a String cannot fail.
        let _written = writeln!(drops, "ip daddr {subnet} ip saddr != {subnet} drop");
        drops
    });
    format!(
        "table inet {table}\ndelete table inet {table}\ntable inet {table} {{\n\
         chain forward {{\ntype filter hook forward priority -1; policy accept;\n\
         ct state established,related accept\n{drops}}}\n}}\n"
    )
}

async fn load(program: &str, rules: String, clock: &dyn Clock) -> Result<(), String> {
    // At the time limit the future is dropped, which kills the process.
    let result = within(clock, LOADING, feed(program, rules)).await;
    result.unwrap_or_else(|| {
        Err(format!(
            "`nft` did not exit within {}; ostler retries. Check with `nft list tables` whether it responds",
            words(LOADING)
        ))
    })
}

async fn feed(program: &str, rules: String) -> Result<(), String> {
    let started = Command::new(program)
        .args(["-f", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn();
    let mut nft = started.map_err(|error| {
        if error.kind() == std::io::ErrorKind::NotFound {
            "`nft` not found on PATH: install nftables".to_owned()
        } else {
            format!("cannot run `nft`: {error}")
        }
    })?;
    if let Some(mut input) = nft.stdin.take() {
        input
            .write_all(rules.as_bytes())
            .await
            .map_err(|error| format!("cannot send the rules to `nft`: {error}"))?;
    }
    let ended =
        nft.wait_with_output().await.map_err(|error| format!("cannot read the result of `nft`: {error}"))?;
    if ended.status.success() {
        return Ok(());
    }
    let stderr = String::from_utf8_lossy(&ended.stderr);
    Err(format!("`nft` rejected the rules: {}", stderr.lines().next().unwrap_or("no reason given")))
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::PermissionsExt as _};

    use super::*;
    use crate::{
        domain::time::{Awake, Timestamp},
        runtime::clock::Boxed,
    };

    /// A clock whose sleeps return at once, so that every time limit expires immediately.
    struct Over;

    impl Clock for Over {
        fn now(&self) -> Timestamp {
            Timestamp(0)
        }

        fn awake(&self) -> Awake {
            Awake(0)
        }

        fn sleep(&self, _duration: Duration) -> Boxed<()> {
            Box::pin(std::future::ready(()))
        }
    }

    #[tokio::test]
    async fn nft_that_hangs_times_out_with_an_error() {
        let directory = tempfile::tempdir().unwrap();
        let hangs = directory.path().join("nft");
        fs::write(&hangs, "#!/bin/sh\nexec sleep 600\n").unwrap();
        fs::set_permissions(&hangs, fs::Permissions::from_mode(0o755)).unwrap();
        let applied = load(hangs.to_str().unwrap(), "x".repeat(1 << 20), &Over).await;
        assert!(applied.as_ref().is_err_and(|why| why.contains("within 10 s")), "{applied:?}");
    }

    #[test]
    fn nft_rules_replace_the_table_and_cover_every_subnet() {
        let subnets: Vec<Subnet> =
            ["10.89.0.0/24", "10.89.3.0/24"].iter().map(|text| text.parse().unwrap()).collect();
        let rules = rules("ostler_test", &subnets.iter().collect::<Vec<_>>());
        assert!(rules.starts_with("table inet ostler_test\ndelete table inet ostler_test\n"), "{rules}");
        for subnet in subnets {
            let drop = format!("\nip daddr {subnet} ip saddr != {subnet} drop\n");
            assert!(rules.contains(&drop), "{rules}");
        }
    }
}
