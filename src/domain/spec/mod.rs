//! The spec of a workspace: everything that an operator sets. From it, ostler creates the workspace's container.
//!
//! `spec_fields` lists the fields; the types here are generated from that list.

mod accept;
mod change;
mod check;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{
    ids::WorkspaceId,
    naming::{LABEL_SPEC, WorkspaceName},
    runtime::Tier,
};
use crate::spec_fields::for_each_spec_field;
pub use accept::Unfit;
use change::Change;
pub use change::Content;
pub use check::{InvalidSpec, OWN_VARIABLES};

/// Access of the container to a bound host directory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Access {
    /// Reads and writes.
    #[default]
    ReadWrite,
    /// Reads only.
    ReadOnly,
}

/// What depends on a field of the spec.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// The workspace: the field has a column of its own.
    Workspace,
    /// Only its container. The field is stored in the JSON of the column `spec`; external workspaces refuse it.
    Container,
}

/// When a change of the spec takes effect; a later time is greater.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Effect {
    /// At once.
    AtOnce,
    /// At the next restart of the workspace.
    NextRestart,
    /// In a new container. The spec hash covers exactly the fields that have this effect.
    Recreate,
}

/// A field of the spec.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SpecField {
    /// Name of the field.
    pub name: &'static str,
    /// What depends on it.
    pub part: Part,
    /// When a change of it takes effect.
    pub effect: Effect,
}

/// A difference between two specs.
#[derive(Clone, Debug, PartialEq)]
pub struct Difference {
    /// The field that differs.
    pub field: SpecField,
    /// Its key in the event of the change.
    pub key: &'static str,
    /// Its value in that event: the new value, or `changed` if the value may be long or contain secrets.
    pub value: Value,
}

macro_rules! define_spec {
    ($(
        $(#[$meta:meta])*
        $field:ident {
            spec {
                value: $value:ty, change: $change:ty,
                part: $part:ident, effect: $effect:ident, event: ($key:literal, $shown:ident),
                stored: $stored:tt, $(label: $label:tt,)?
            }
            wire $wire:tt
        }
    )*) => {
        /// The spec of a workspace. Its JSON is the content of the column `spec`: the fields of `Part::Container`.
        #[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
        #[serde(default)]
        pub struct WorkspaceSpec {
            $(
                $(#[$meta])*
                #[serde $stored]
                pub $field: $value,
            )*
        }

        /// A change of a spec; the default changes nothing.
        #[derive(Clone, Default, PartialEq, Eq)]
        pub struct SpecPatch {
            $(
                $(#[$meta])*
                pub $field: $change,
            )*
        }

        /// The part of a workspace that is stored in its container's label. It suffices to rebuild a lost row, and
        /// contains no secrets.
        #[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
        pub struct LabelledSpec {
            /// Name at the time when the container was created.
            pub name: WorkspaceName,
            $($(
                #[doc = concat!("`", stringify!($field), "` at the time when the container was created.")]
                #[serde $label]
                pub $field: $value,
            )?)*
        }

        /// All fields of the spec.
        pub const SPEC_FIELDS: &[SpecField] = &[
            $(SpecField { name: stringify!($field), part: Part::$part, effect: Effect::$effect },)*
        ];

        /// The fields in which two specs differ.
        #[must_use]
        pub fn diff(old: &WorkspaceSpec, new: &WorkspaceSpec) -> Vec<Difference> {
            let mut differences = Vec::new();
            $(
                if old.$field != new.$field {
                    differences.push(Difference {
                        field: SpecField {
                            name: stringify!($field), part: Part::$part, effect: Effect::$effect,
                        },
                        key: $key,
                        value: $shown(&old.$field, &new.$field),
                    });
                }
            )*
            differences
        }

        impl SpecPatch {
            /// Applies the change. A new workspace's spec is a change of the default.
            #[must_use]
            pub fn applied_to(self, spec: &WorkspaceSpec) -> WorkspaceSpec {
                let mut spec = spec.clone();
                $(Change::<$value>::apply(self.$field, &mut spec.$field);)*
                spec
            }

            /// Whether it sets a field of this part, to the same value or another.
            #[must_use]
            pub fn sets(&self, part: Part) -> bool {
                let unchanged = Self::default();
                [$((Part::$part, self.$field != unchanged.$field)),*].contains(&(part, true))
            }
        }

        impl LabelledSpec {
            /// The label of a container that is created from this spec.
            #[must_use]
            pub fn new(name: &WorkspaceName, spec: &WorkspaceSpec) -> Self {
                Self { name: name.clone(), $($($field: labelled!($label, spec.$field.clone()),)?)* }
            }

            /// The spec, as far as the label contains it.
            #[must_use]
            pub fn spec(&self) -> WorkspaceSpec {
                WorkspaceSpec {
                    $($($field: labelled!($label, self.$field.clone()),)?)*
                    ..WorkspaceSpec::default()
                }
            }
        }
    };
}

/// The value; names the label, so that the line is repeated only for fields with a label.
macro_rules! labelled {
    ($label:tt, $value:expr) => {
        $value
    };
}

for_each_spec_field!(define_spec);

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

fn new_value<T: Serialize>(_: &T, new: &T) -> Value {
    json!(new)
}

fn changed<T>(_: &T, _: &T) -> Value {
    json!("changed")
}

fn changed_keys(old: &BTreeMap<String, String>, new: &BTreeMap<String, String>) -> Value {
    let mut keys: Vec<_> =
        old.keys().chain(new.keys()).filter(|key| old.get(*key) != new.get(*key)).collect();
    keys.sort();
    keys.dedup();
    json!(keys)
}

impl std::fmt::Debug for WorkspaceSpec {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("WorkspaceSpec")
            .field("role", &self.role)
            .field("runtime", &self.runtime)
            .field("tier", &self.tier)
            .field("parent", &self.parent)
            .field("image", &self.image)
            .field("command", &self.command)
            .field("env", &self.env.keys().collect::<Vec<_>>())
            .field("workspace_dir", &self.workspace_dir)
            .field("url", &self.url)
            .finish_non_exhaustive()
    }
}

/// Text for the user about everything that a row rebuilt from a [`LabelledSpec`] lacks. The labels of a container
/// cannot be changed after its creation, and contain no secrets.
pub const NOT_IN_LABELS: &str = "api tokens, --hibernate-after, --max-tasks and --restart-when-wedged, and every change \
                                 (name, parent, image and so on) since its container was created, are lost";

impl LabelledSpec {
    /// Parses a container's label; `None` if it is missing or invalid.
    #[must_use]
    pub fn of(labels: &BTreeMap<String, String>) -> Option<Self> {
        serde_json::from_str(labels.get(LABEL_SPEC)?).ok()
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use uuid::Uuid;

    use super::*;

    /// A change of every field, with the time at which it takes effect.
    pub(crate) fn changes() -> Vec<(&'static str, Effect, WorkspaceSpec)> {
        let spec = WorkspaceSpec::default;
        let text = || Some("text".to_owned());
        vec![
            ("role", Effect::AtOnce, WorkspaceSpec { role: text(), ..spec() }),
            ("runtime", Effect::Recreate, WorkspaceSpec { runtime: "agent".into(), ..spec() }),
            ("image", Effect::Recreate, WorkspaceSpec { image: "image".into(), ..spec() }),
            ("command", Effect::Recreate, WorkspaceSpec { command: vec!["serve".into()], ..spec() }),
            ("tier", Effect::Recreate, WorkspaceSpec { tier: Tier::SANDBOX, ..spec() }),
            (
                "parent",
                Effect::Recreate,
                WorkspaceSpec { parent: Some(WorkspaceId(Uuid::from_u128(1))), ..spec() },
            ),
            ("url", Effect::AtOnce, WorkspaceSpec { url: text(), ..spec() }),
            ("workspace_dir", Effect::Recreate, WorkspaceSpec { workspace_dir: text(), ..spec() }),
            (
                "workspace_access",
                Effect::Recreate,
                WorkspaceSpec { workspace_access: Access::ReadOnly, ..spec() },
            ),
            (
                "env",
                Effect::Recreate,
                WorkspaceSpec { env: BTreeMap::from([("KEY".to_owned(), "secret".to_owned())]), ..spec() },
            ),
            ("config", Effect::NextRestart, WorkspaceSpec { config: text(), ..spec() }),
            (
                "hibernation_idle_minutes",
                Effect::AtOnce,
                WorkspaceSpec { hibernation_idle_minutes: Some(5), ..spec() },
            ),
            (
                "max_concurrent_tasks",
                Effect::AtOnce,
                WorkspaceSpec { max_concurrent_tasks: Some(5), ..spec() },
            ),
            ("restart_when_wedged", Effect::AtOnce, WorkspaceSpec { restart_when_wedged: true, ..spec() }),
        ]
    }

    #[test]
    fn diff_names_every_changed_field_and_its_effect() {
        for (name, effect, new) in changes() {
            let found = diff(&WorkspaceSpec::default(), &new);
            let found: Vec<_> = found.iter().map(|found| (found.field.name, found.field.effect)).collect();
            assert_eq!(found, [(name, effect)]);
            assert_eq!(diff(&new, &new), []);
        }
        let tested: Vec<_> = changes().into_iter().map(|(name, ..)| name).collect();
        let fields: Vec<_> = SPEC_FIELDS.iter().map(|field| field.name).collect();
        assert_eq!(tested, fields, "the table of this test must name every field of the spec");
    }

    #[test]
    fn difference_shows_no_secret() {
        for (_, _, new) in changes() {
            for found in diff(&WorkspaceSpec::default(), &new) {
                assert!(!found.value.to_string().contains("secret"), "{found:?}");
            }
        }
        let of = |env: &[(&str, &str)]| WorkspaceSpec {
            env: env.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect(),
            ..WorkspaceSpec::default()
        };
        let found =
            diff(&of(&[("KEEP", "1"), ("OLD", "1"), ("LEVEL", "1")]), &of(&[("KEEP", "1"), ("LEVEL", "2")]));
        assert_eq!(found[0].value, json!(["LEVEL", "OLD"]));
    }

    #[test]
    fn stored_json_contains_exactly_the_fields_of_the_container() {
        let stored = json!(WorkspaceSpec::default());
        // A later field must be absent at its default, because the hashes of existing containers do not cover it.
        let expected = json!({
            "image": "", "command": [], "env": {}, "workspace_dir": null, "workspace_access": "read_write",
            "config": null,
        });
        assert_eq!(stored, expected);
        for (name, _, spec) in changes() {
            let of_container =
                SPEC_FIELDS.iter().any(|field| field.name == name && field.part == Part::Container);
            let stored = json!(spec);
            assert_eq!(stored != expected, of_container, "{name}");
            if of_container {
                assert_eq!(serde_json::from_value::<WorkspaceSpec>(stored).unwrap(), spec);
            }
        }
    }

    #[test]
    fn labels_of_existing_containers_are_read_and_written() {
        let label = r#"{"name":"one","runtime":"plain","tier":2,"image":"image"}"#;
        let read = LabelledSpec::of(&BTreeMap::from([(LABEL_SPEC.to_owned(), label.to_owned())])).unwrap();
        let written = json!({
            "name": "one", "runtime": "plain", "tier": 2, "image": "image", "workspace_access": "read_write",
        });
        assert_eq!(json!(read), written);
        let unlabelled = [
            "url",
            "env",
            "config",
            "hibernation_idle_minutes",
            "max_concurrent_tasks",
            "restart_when_wedged",
        ];
        let name = WorkspaceName::stored("one".into());
        for (field, _, spec) in changes() {
            let labelled = LabelledSpec::new(&name, &spec);
            assert_eq!(labelled.spec() == spec, !unlabelled.contains(&field), "{field}");
        }
    }
}
