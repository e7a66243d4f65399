//! Converts the spec of a workspace between the types of the wire and of `domain`.

use std::{collections::BTreeMap, mem::take};

use super::error::{HttpError, HttpResult};
use crate::{
    api::spec::{CreateWorkspace, PatchWorkspace, SpecView},
    domain::{
        ids::WorkspaceId,
        runtime::Tier,
        spec::{Access, Content, SpecPatch, WorkspaceSpec},
    },
    spec_fields::for_each_spec_field,
};

macro_rules! define_conversions {
    ($(
        $(#[$meta:meta])*
        $field:ident {
            spec $spec:tt
            wire {
                key: $key:ident, create: $create:ty, patch: $patch:ty, attributes: $attributes:tt,
                $(view: $shown:ident ($view:ty, $show:ident),)?
            }
        }
    )*) => {
        /// Takes the spec from a create request, as a change of the default spec.
        ///
        /// # Errors
        /// If a text has no meaning. `parent_id` must be an id.
        pub(super) fn of_create(body: &mut CreateWorkspace) -> HttpResult<SpecPatch> {
            Ok(SpecPatch { $($field: Given::given(take(&mut body.$key))?,)* })
        }

        /// The changes of a spec in a request. `parent_id` must be an id.
        ///
        /// # Errors
        /// If a text has no meaning.
        pub(super) fn of_patch(body: PatchWorkspace) -> HttpResult<SpecPatch> {
            Ok(SpecPatch { $($field: Given::given(body.$key)?,)* })
        }

        /// The part of the view that shows a spec to an admin.
        pub(super) fn view(spec: &WorkspaceSpec) -> SpecView {
            SpecView { $($($shown: $show(&spec.$field),)?)* }
        }
    };
}

for_each_spec_field!(define_conversions);

/// A change of a field, from its type on the wire.
trait Given<W>: Sized {
    fn given(wire: W) -> HttpResult<Self>;
}

impl<T> Given<T> for T {
    fn given(wire: T) -> HttpResult<Self> {
        Ok(wire)
    }
}

impl Given<bool> for Option<bool> {
    fn given(wire: bool) -> HttpResult<Self> {
        Ok(Some(wire))
    }
}

impl Given<Vec<String>> for Option<Vec<String>> {
    fn given(wire: Vec<String>) -> HttpResult<Self> {
        Ok(Some(wire))
    }
}

impl Given<BTreeMap<String, String>> for BTreeMap<String, Option<String>> {
    fn given(wire: BTreeMap<String, String>) -> HttpResult<Self> {
        Ok(wire.into_iter().map(|(key, value)| (key, Some(value))).collect())
    }
}

impl Given<Option<String>> for Option<Content> {
    fn given(wire: Option<String>) -> HttpResult<Self> {
        Ok(wire.map(Content))
    }
}

impl Given<Option<u8>> for Option<Tier> {
    fn given(wire: Option<u8>) -> HttpResult<Self> {
        wire.map(Tier::try_from).transpose().map_err(|error| HttpError::invalid(error.to_string()))
    }
}

impl Given<Option<String>> for Option<Access> {
    fn given(wire: Option<String>) -> HttpResult<Self> {
        match wire.as_deref() {
            None | Some("") => Ok(None),
            Some("read_write") => Ok(Some(Access::ReadWrite)),
            Some("read_only") => Ok(Some(Access::ReadOnly)),
            Some(other) => Err(HttpError::invalid(format!(
                "unknown workspace_access `{other}`: use read_only or read_write"
            ))),
        }
    }
}

impl Given<Option<String>> for Option<Option<WorkspaceId>> {
    fn given(wire: Option<String>) -> HttpResult<Self> {
        match wire.as_deref() {
            None => Ok(None),
            Some("") => Ok(Some(None)),
            Some(id) => match id.parse() {
                Ok(id) => Ok(Some(Some(id))),
                Err(_) => Err(HttpError::invalid(format!("the parent `{id}` is not an id"))),
            },
        }
    }
}

fn same<T: Clone>(value: &T) -> T {
    value.clone()
}

fn keys(variables: &BTreeMap<String, String>) -> Vec<String> {
    variables.keys().cloned().collect()
}

#[expect(clippy::ref_option, reason = "called with a reference to the field")]
fn length(text: &Option<String>) -> Option<usize> {
    text.as_ref().map(String::len)
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "called with a reference to the field")]
fn if_read_only(access: &Access) -> Option<String> {
    (*access == Access::ReadOnly).then(|| "read_only".to_owned())
}
