//! What every state of Podman means here: one table, tested word by word.
//!
//! | Podman says | read as | process alive | a stop | a start |
//! |---|---|---|---|---|
//! | `configured`, `created` | `Created` | no | nothing to do | starts it |
//! | `initialized` (`podman init`) | `Created` | only the runtime's, before the agent's program | ends that process | starts it |
//! | `running` | `Running` | yes | TERM, then KILL after the grace | refused: it was not this start |
//! | `paused` (`podman pause`) | `Paused` | yes, frozen | unpaused, then stopped | refused: it was not this start |
//! | `stopping` | `Stopping` | perhaps | stopped once more | refused; if conmon and process are gone: another container |
//! | `stopped`, `exited` | `Exited` | no | nothing to do | starts it |
//! | `removing` | `Removing` | no: Podman stops first | nothing to do | never: another container takes its place |
//! | `dead` (a deletion that failed, in Docker's words) | `Removing` | no | nothing to do | never, as above |
//! | `unknown`, and any other word | `Unknown` | perhaps | tried, and never believed | refused |
//!
//! `Unknown` counts as running wherever absence would be acted upon, and as not running nowhere.

use crate::domain::observed::ContainerState;

/// Podman's words and their meaning.
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

/// Reads Podman's word for a container's state. Podman 4 and 5 write it in lower case, `podman ps` does not.
pub(super) fn read(word: &str) -> ContainerState {
    let known = STATES.iter().find(|(known, _)| known.eq_ignore_ascii_case(word));
    known.map_or(ContainerState::Unknown, |(_, state)| *state)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_state_of_podman_has_a_decided_meaning() {
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
            assert_eq!(state.may_run(), may_run, "{word}: may its process run?");
            assert_eq!(state.can_start_again(), can_start_again, "{word}: can it start again?");
        }
    }

    #[test]
    fn unknown_word_counts_as_running() {
        for word in ["", "checkpointed", "Improper"] {
            assert_eq!(read(word), ContainerState::Unknown, "{word}");
            assert!(read(word).may_run(), "{word}");
        }
        assert_eq!(read("Paused"), ContainerState::Paused);
    }

    #[test]
    fn every_state_is_a_word_of_podman() {
        for state in ContainerState::ALL {
            assert!(STATES.iter().any(|(_, known)| *known == state), "{state:?}");
        }
    }
}
