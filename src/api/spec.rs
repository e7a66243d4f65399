//! The spec of a workspace: the bodies that create and change a workspace, and the spec's part of the view.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::spec_fields::for_each_spec_field;

macro_rules! define_bodies {
    ($(
        $(#[$meta:meta])*
        $field:ident {
            spec $spec:tt
            wire {
                key: $key:ident, create: $create:ty, patch: $patch:ty, attributes: ($($attribute:tt)*),
                $(view: $shown:ident ($view:ty, $show:ident),)?
            }
        }
    )*) => {
        /// `POST /workspaces`. Existing clients send an empty text for a field that is not set.
        #[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
        #[serde(deny_unknown_fields, default)]
        pub struct CreateWorkspace {
            /// Unique among live workspaces.
            pub name: String,
            /// Whether the agent runs outside ostler's containers.
            #[serde(skip_serializing_if = "is_default")]
            pub external: bool,
            $(
                $(#[$meta])*
                #[serde(skip_serializing_if = "is_default", $($attribute)*)]
                pub $key: $create,
            )*
            /// `push`: messages are sent to the external agent. `poll`: messages are stored until the agent polls them.
            #[serde(skip_serializing_if = "is_default")]
            pub delivery_mode: Option<String>,
        }

        /// `PATCH /workspaces/:id`. A setting whose field is absent stays unchanged.
        #[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
        #[serde(deny_unknown_fields, default)]
        pub struct PatchWorkspace {
            /// New name, unique among live workspaces.
            #[serde(skip_serializing_if = "is_default")]
            pub name: Option<String>,
            $(
                $(#[$meta])*
                #[serde(skip_serializing_if = "is_default", $($attribute)*)]
                pub $key: $patch,
            )*
        }

        /// The part of the view that shows the spec of a container. Filled only when an admin requests a single
        /// workspace.
        #[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
        #[serde(default)]
        pub struct SpecView {
            $($(
                #[doc = concat!("`", stringify!($field), "` of the spec.")]
                #[serde(skip_serializing_if = "is_default")]
                pub $shown: $view,
            )?)*
        }
    };
}

for_each_spec_field!(define_bodies);

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// Deserializes null as an empty string, so that null differs from an absent key. Existing clients send
/// `"parent_id": null` to make a workspace a root.
fn null_is_empty<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    Option::<String>::deserialize(deserializer).map(|text| Some(text.unwrap_or_default()))
}
