//! Meaning of every Podman container state. The tests check each word in this table.
//!
//! | Podman's word | state | process alive | effect of a stop | effect of a start |
//! |---|---|---|---|---|
//! | `configured`, `created` | `Created` | no | none | starts it |
//! | `initialized` (`podman init`) | `Created` | only the OCI runtime's | ends that process | starts it |
//! | `running` | `Running` | yes | TERM, then KILL after the grace period | refused: it runs already |
//! | `paused` (`podman pause`) | `Paused` | yes, frozen | unpaused, then stopped | refused: it runs already |
//! | `stopping` | `Stopping` | perhaps | stopped again | refused; a new container if conmon and process are gone |
//! | `stopped`, `exited` | `Exited` | no | none | starts it |
//! | `removing` | `Removing` | no: Podman stops first | none | never: needs a new container |
//! | `dead` (Docker's word for a failed deletion) | `Removing` | no | none | never: needs a new container |
//! | `unknown`, and any other word | `Unknown` | perhaps | tried; the state is checked afterwards | refused |
//!
//! `Unknown` counts as possibly running: no decision that requires a stopped container treats it as stopped.

use crate::domain::observed::ContainerState;

/// Podman's words and the states they are converted to.
const STATES: [(&str, ContainerState); 11] = [
    ("configured", ContainerState::Created),
    ("created", ContainerState::Created),
    ("initialized", ContainerState::Created),
    ("running", ContainerState::Running),
    ("paused", ContainerState::Paused),
    ("stopping", ContainerState::Stopping),
    ("stopped", ContainerState::Exited),
    ("exited", ContainerState::Exited),
    ("removing", ContainerState::Removing),
    ("dead", ContainerState::Removing),
    ("unknown", ContainerState::Unknown),
];

/// Converts Podman's word for a container state. Podman 4 and 5 send it in lower case; `podman ps` does not.
pub(super) fn read(word: &str) -> ContainerState {
    let known = STATES.iter().find(|(known, _)| known.eq_ignore_ascii_case(word));
    known.map_or(ContainerState::Unknown, |(_, state)| *state)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_podman_state_has_a_defined_meaning() {
        let decided = [
            ("configured", "created", false, true),
            ("created", "created", false, true),
            ("initialized", "created", false, true),
            ("running", "running", true, true),
            ("paused", "paused", true, true),
            ("stopping", "stopping", true, true),
            ("stopped", "exited", false, true),
            ("exited", "exited", false, true),
            ("removing", "removing", false, false),
            ("dead", "removing", false, false),
            ("unknown", "unknown", true, true),
        ];
        assert_eq!(decided.len(), STATES.len());
        for (word, meaning, may_run, can_start_again) in decided {
            let state = read(word);
            assert_eq!(serde_json::to_value(state).unwrap(), meaning, "{word}");
            assert_eq!(state.may_run(), may_run, "{word}: may_run");
            assert_eq!(state.can_start_again(), can_start_again, "{word}: can_start_again");
        }
    }

    #[test]
    fn unknown_podman_state_counts_as_running() {
        for word in ["", "checkpointed", "Improper"] {
            assert_eq!(read(word), ContainerState::Unknown, "{word}");
            assert!(read(word).may_run(), "{word}");
        }
        assert_eq!(read("Paused"), ContainerState::Paused);
    }

    #[test]
    fn every_container_state_has_a_podman_name() {
        for state in ContainerState::ALL {
            assert!(STATES.iter().any(|(_, known)| *known == state), "{state:?}");
        }
    }
}
