//! The request from inside a workspace: whether workspaces reach ostler cannot be determined from the host.

use std::collections::BTreeMap;

use sha2::{Digest as _, Sha256};
use tokio::io::AsyncReadExt as _;

use super::reached::unreached;
use crate::{
    api::{doctor::Check, health::Health},
    doctor::{parts::Doctor, verdict::ok},
    domain::{
        ids::{ContainerId, InstanceId},
        token::redact_tokens,
    },
    engine::{EngineResult, ExecRequest},
    store::Described,
};

/// Maximum number of bytes of output that are read from a container, so that a container cannot fill the daemon's
/// memory.
const OUTPUT_MAX_BYTES: u64 = 16 << 10;

/// How many characters of that output are shown.
const OUTPUT_MAX_CHARS: usize = 200;

/// Shown if the output is empty.
const NO_ANSWER: &str = "no answer";

const NO_SHELL: &str = "/bin/sh could not be run in any running workspace";

/// Script that requests `/health` from inside a container, with the first of curl, wget and python3 that the container
/// has. Not every wget has an option for a time limit, so wget runs under `timeout` if the container has a `timeout`
/// that accepts `timeout SECONDS COMMAND`.
const ASK: &str = r#"url=${PLATFORM_URL:-}/health limit=
exec 2>&1
echo "asking $url"
if timeout 5 true 2>/dev/null; then limit="timeout 5"; fi
if command -v curl >/dev/null; then curl -sSf -m 5 "$url"
elif command -v wget >/dev/null; then $limit wget -q -O - "$url"
elif command -v python3 >/dev/null; then
    python3 -c 'import sys, urllib.request as r; print(r.urlopen(sys.argv[1], timeout=5).read(999).decode())' "$url"
else echo "no tool"; fi"#;

/// Result of the request from inside a container.
#[derive(Debug, PartialEq, Eq)]
enum InsideAnswer {
    /// This daemon answered at this URL.
    Ostler(String),
    /// This daemon did not answer: the URL, and the output of the request.
    Otherwise(String, String),
    /// The request could not be made, for this reason.
    NotAsked(&'static str),
}

impl Doctor {
    /// Sends a request to ostler from inside a workspace. Tries the workspaces in `running` in order until one gives a
    /// result.
    ///
    /// # Errors
    /// The reason of the last attempt, if no workspace gave a result.
    pub(super) async fn ask_one(
        &self,
        rows: &[Described],
        running: &[&Described],
    ) -> Result<Check, &'static str> {
        let mut why = "no workspace runs";
        for one in running {
            let Some(container) = &one.row.container else { continue };
            let answer = match self.run_inside(container).await {
                Ok(output) => parse_inside_answer(&output, &registry_mark(self.0.instance)),
                // The container may exit at any moment, and not every image has a shell.
                Err(error) => {
                    tracing::debug!(%error, workspace = %one.row.name, "network check could not run in workspace");
                    InsideAnswer::NotAsked(NO_SHELL)
                }
            };
            match answer {
                InsideAnswer::Ostler(url) => {
                    return Ok(ok("network", format!("`{}` reaches ostler at {url}", one.row.name)));
                }
                // The output is empty if the exec stream broke off, which happens while other containers start and
                // stop. A heartbeat that arrived is stronger evidence than empty output.
                InsideAnswer::Otherwise(_, output)
                    if output == NO_ANSWER && self.newest_heartbeat(rows).is_some() =>
                {
                    why = "a request from inside a workspace returned nothing";
                }
                InsideAnswer::Otherwise(url, output) => {
                    let now = self.0.clock.now();
                    let output =
                        redact_tokens(&output, |digest| self.0.store.token_subject(digest, now).is_some());
                    return Ok(unreached(one.row.name.as_str(), &url, &output, self.0.network.port));
                }
                InsideAnswer::NotAsked(reason) => why = reason,
            }
        }
        Err(why)
    }

    async fn run_inside(&self, container: &ContainerId) -> EngineResult<Vec<u8>> {
        let request = ExecRequest {
            command: ["/bin/sh", "-c", ASK].map(str::to_owned).into(),
            tty: false,
            stdin: false,
            env: BTreeMap::new(),
            user: None,
        };
        let exec = self.0.engine.create_exec(container, &request).await?;
        let mut stream = self.0.engine.start_exec(&exec, false).await?.take(OUTPUT_MAX_BYTES);
        let mut output = Vec::new();
        // Output that arrived before the stream broke off is used as well.
        let _broken = stream.read_to_end(&mut output).await;
        Ok(output)
    }
}

/// Returns the mark by which `/health` identifies this registry.
///
/// It is a digest of the instance's id: the id itself is the label of every container, and `/health` is open to callers
/// without a token.
#[must_use]
pub fn registry_mark(instance: InstanceId) -> String {
    let digest = Sha256::digest(format!("ostler health {instance}"));
    let mark = digest.first_chunk().copied().map_or(0, u64::from_be_bytes);
    format!("{mark:016x}")
}

/// Returns stdout and stderr of a command in the order received, without the stream's frame headers.
fn unframed(mut stream: &[u8]) -> String {
    let mut bytes = Vec::new();
    while let Some(([_, _, _, _, length @ ..], rest)) = stream.split_first_chunk::<8>() {
        let length = usize::try_from(u32::from_be_bytes(*length)).unwrap_or(usize::MAX);
        let (part, behind) = rest.split_at(length.min(rest.len()));
        bytes.extend_from_slice(part);
        stream = behind;
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

fn parse_inside_answer(stream: &[u8], own_mark: &str) -> InsideAnswer {
    let text = unframed(stream);
    let Some((url, answer)) = text.split_once('\n').and_then(|(first, rest)| {
        Some((first.strip_prefix("asking ")?.strip_suffix("/health")?.to_owned(), rest.trim()))
    }) else {
        return InsideAnswer::NotAsked(NO_SHELL);
    };
    if answer == "no tool" {
        return InsideAnswer::NotAsked("no running workspace has wget, curl or python3");
    }
    match serde_json::from_str::<Health>(answer) {
        Ok(health) if health.registry == own_mark => InsideAnswer::Ostler(url),
        Ok(_) => InsideAnswer::Otherwise(url, "the ostler daemon of another registry answered".into()),
        Err(_) => {
            // The last line of a Python traceback is the error.
            let last = answer.lines().next_back().unwrap_or(NO_ANSWER);
            InsideAnswer::Otherwise(url, last.chars().take(OUTPUT_MAX_CHARS).collect())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::network::fixture::ADVERTISED;

    /// The stream as the engine sends it: one frame for each part. A part may end anywhere in the text.
    fn framed(parts: &[&str]) -> Vec<u8> {
        let mut stream = Vec::new();
        for part in parts {
            stream.extend([1, 0, 0, 0]);
            stream.extend(u32::try_from(part.len()).unwrap().to_be_bytes());
            stream.extend(part.as_bytes());
        }
        stream
    }

    #[test]
    fn only_the_daemons_own_response_proves_reachability() {
        let asking = format!("asking {ADVERTISED}/health\n");
        let health = |mark: &str| format!("{{\"status\":\"ok\",\"registry\":\"{mark}\"}}");
        let own = framed(&[&asking, &health("7")[..9], &health("7")[9..]]);
        assert_eq!(parse_inside_answer(&own, "7"), InsideAnswer::Ostler(ADVERTISED.into()));
        for (output, expected) in [
            (health("8"), "the ostler daemon of another registry answered"),
            ("Traceback\n  File\nurllib.error.URLError: refused\n".into(), "urllib.error.URLError: refused"),
            ("<html>".into(), "<html>"),
            (String::new(), "no answer"),
        ] {
            let answer = parse_inside_answer(&framed(&[&asking, &output]), "7");
            assert_eq!(answer, InsideAnswer::Otherwise(ADVERTISED.into(), expected.into()), "{output}");
        }
    }

    #[test]
    fn probe_is_reported_as_not_made_without_shell_or_http_client() {
        for output in [
            &framed(&["OCI runtime exec failed: no such file"])[..],
            b"",
            b"\x01\0\0",
            &framed(&["asking x/health\n", "no tool\n"]),
        ] {
            assert!(matches!(parse_inside_answer(output, "7"), InsideAnswer::NotAsked(_)), "{output:?}");
        }
    }

    #[test]
    fn truncated_frame_is_read_up_to_the_cut() {
        let mut stream = framed(&["one ", "two"]);
        stream.truncate(stream.len() - 1);
        assert_eq!(unframed(&stream), "one tw");
    }
}
