//! The fields of a workspace's spec, in one table. A new field is one new entry.
//!
//! `for_each_spec_field!(NAME)` passes the table to the macro `NAME`. `domain` makes the spec, its change, its label and
//! its `diff` of it, `api` makes the bodies of requests and the spec's part of the view, and `http` makes the conversions
//! between the two. Each of them parses the half of an entry that it needs.
//!
//! In `spec`: `value` and `change` are the types of the field in a spec and in a change of one. `part` is `Container` if
//! only the container depends on the field; the field is then stored in the JSON of the column `spec`, and external
//! workspaces refuse it. Fields of the part `Workspace` have a column of their own (`store/spec_columns.rs`). `effect`
//! is the time at which a change takes effect. `event` is the key of a change in the event, and whether the event shows
//! the new value. `stored` and `label` are serde's attributes of the field in the column `spec` and in the container's
//! label; a field without `label` is not in the label. A new field of the part `Container` needs the attribute
//! `skip_serializing_if = "is_default"`: otherwise it changes the hash of every container that exists already.
//!
//! In `wire`: `key` is the name in JSON. `create` and `patch` are the types in the bodies, with serde's `attributes`.
//! `view` is the name and type of the field in the view of one workspace for an admin, and the function that shows it.

macro_rules! for_each_spec_field {
    ($then:ident) => {
        $then! {
            /// The purpose of the workspace, as free text; empty or null clears it.
            role {
                spec {
                    value: Option<String>, change: Option<String>,
                    part: Workspace, effect: AtOnce, event: ("role", new_value),
                    stored: (skip), label: (default, skip_serializing_if = "is_default"),
                }
                wire {
                    key: role, create: Option<String>, patch: Option<String>,
                    attributes: (deserialize_with = "null_is_empty"),
                }
            }
            /// Name of the runtime; default `plain`. In a create request, `external` creates an external workspace.
            runtime {
                spec {
                    value: String, change: Option<String>,
                    part: Workspace, effect: Recreate, event: ("runtime", new_value),
                    stored: (skip), label: (),
                }
                wire { key: runtime, create: Option<String>, patch: Option<String>, attributes: (), }
            }
            /// Image reference; default: the runtime's image.
            image {
                spec {
                    value: String, change: Option<String>,
                    part: Container, effect: Recreate, event: ("image", new_value),
                    stored: (), label: (),
                }
                wire { key: image, create: Option<String>, patch: Option<String>, attributes: (), }
            }
            /// Command that replaces the image's own command; empty selects the command of the runtime or of the image.
            command {
                spec {
                    value: Vec<String>, change: Option<Vec<String>>,
                    part: Container, effect: Recreate, event: ("command", changed),
                    stored: (), label: (default, skip_serializing_if = "is_default"),
                }
                wire {
                    key: command, create: Vec<String>, patch: Option<Vec<String>>, attributes: (),
                    view: command (Vec<String>, same),
                }
            }
            /// Resource tier, 1 to 4; default 2.
            tier {
                spec {
                    value: Tier, change: Option<Tier>,
                    part: Workspace, effect: Recreate, event: ("tier", new_value),
                    stored: (skip), label: (),
                }
                wire { key: tier, create: Option<u8>, patch: Option<u8>, attributes: (), }
            }
            /// Parent in the tree: in a request its id, unique id prefix or name. Empty or null makes the workspace a root.
            parent {
                spec {
                    value: Option<WorkspaceId>, change: Option<Option<WorkspaceId>>,
                    part: Workspace, effect: Recreate, event: ("parent_id", new_value),
                    stored: (skip), label: (default, skip_serializing_if = "is_default"),
                }
                wire {
                    key: parent_id, create: Option<String>, patch: Option<String>,
                    attributes: (deserialize_with = "null_is_empty"),
                }
            }
            /// URL at which an external agent is reached; empty clears it.
            url {
                spec {
                    value: Option<String>, change: Option<String>,
                    part: Workspace, effect: AtOnce, event: ("url", new_value),
                    stored: (skip),
                }
                wire { key: url, create: Option<String>, patch: Option<String>, attributes: (), }
            }
            /// Absolute path of a host directory, mounted at `/workspace` instead of a work volume. Only a workspace that
            /// has a host directory already can be given another one.
            workspace_dir {
                spec {
                    value: Option<String>, change: Option<String>,
                    part: Container, effect: Recreate, event: ("workspace_dir", changed),
                    stored: (), label: (default, skip_serializing_if = "is_default"),
                }
                wire {
                    key: workspace_dir, create: Option<String>, patch: Option<String>, attributes: (),
                    view: workspace_dir (Option<String>, same),
                }
            }
            /// Access to that directory: `read_only` or `read_write`.
            workspace_access {
                spec {
                    value: Access, change: Option<Access>,
                    part: Container, effect: Recreate, event: ("workspace_dir", changed),
                    stored: (), label: (default),
                }
                wire {
                    key: workspace_access, create: Option<String>, patch: Option<String>, attributes: (),
                    view: workspace_access (Option<String>, if_read_only),
                }
            }
            /// Environment variables, in addition to those of the runtime. They may contain secrets, so their values are
            /// never shown and never stored in labels. In a change, null removes a variable, and variables that are not
            /// listed stay unchanged.
            env {
                spec {
                    value: BTreeMap<String, String>, change: BTreeMap<String, Option<String>>,
                    part: Container, effect: Recreate, event: ("env", changed_keys),
                    stored: (),
                }
                wire {
                    key: env, create: BTreeMap<String, String>, patch: BTreeMap<String, Option<String>>,
                    attributes: (),
                    view: env_names (Vec<String>, keys),
                }
            }
            /// Content of `/configs/config.yaml`: written by the first start if the file does not exist. After a change,
            /// the next start overwrites the file.
            config {
                spec {
                    value: Option<String>, change: Option<Content>,
                    part: Container, effect: NextRestart, event: ("config", changed),
                    stored: (),
                }
                wire {
                    key: config, create: Option<String>, patch: Option<String>, attributes: (),
                    view: config_bytes (Option<usize>, length),
                }
            }
            /// Idle minutes after which the workspace hibernates; 0: never.
            hibernation_idle_minutes {
                spec {
                    value: Option<u32>, change: Option<u32>,
                    part: Workspace, effect: AtOnce, event: ("hibernation_idle_minutes", new_value),
                    stored: (skip),
                }
                wire { key: hibernation_idle_minutes, create: Option<u32>, patch: Option<u32>, attributes: (), }
            }
            /// Number of tasks that the agent accepts at once; 0: unknown. ostler does not enforce it; peers can read it.
            max_concurrent_tasks {
                spec {
                    value: Option<u32>, change: Option<u32>,
                    part: Workspace, effect: AtOnce, event: ("max_concurrent_tasks", new_value),
                    stored: (skip),
                }
                wire { key: max_concurrent_tasks, create: Option<u32>, patch: Option<u32>, attributes: (), }
            }
            /// Whether the workspace is restarted when it is stalled (busy without progress).
            restart_when_wedged {
                spec {
                    value: bool, change: Option<bool>,
                    part: Workspace, effect: AtOnce, event: ("restart_when_wedged", new_value),
                    stored: (skip),
                }
                wire { key: restart_when_wedged, create: bool, patch: Option<bool>, attributes: (), }
            }
        }
    };
}

pub(crate) use for_each_spec_field;
