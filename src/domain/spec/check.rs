//! Checks that a container can be created from a spec.

use super::{SpecPatch, WorkspaceSpec};

/// Variables that ostler sets in every container. A workspace's environment may not contain them.
pub const OWN_VARIABLES: [&str; 5] =
    ["WORKSPACE_ID", "WORKSPACE_CONFIG_PATH", "PLATFORM_URL", "TIER", "PARENT_ID"];

/// Why no container can be created from a spec.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct InvalidSpec(String);

impl WorkspaceSpec {
    /// Checks a spec with a complete image and command.
    ///
    /// # Errors
    /// If no container can be created from it.
    pub fn check(&self) -> Result<(), InvalidSpec> {
        check_image(&self.image)?;
        check_process(&self.command, self.env.iter(), self.workspace_dir.as_deref())
    }
}

fn check_image(image: &str) -> Result<(), InvalidSpec> {
    if image.is_empty() {
        return Err(InvalidSpec("the image name is empty".into()));
    }
    if image.chars().any(|c| c.is_whitespace() || c.is_control()) {
        return Err(InvalidSpec(format!(
            "the image name `{image}` contains white space or control characters"
        )));
    }
    Ok(())
}

fn check_process<'a>(
    command: &[String],
    env: impl Iterator<Item = (&'a String, &'a String)>,
    directory: Option<&str>,
) -> Result<(), InvalidSpec> {
    const NUL: &str = "contains a NUL character, which cannot be passed to a process";
    if command.iter().any(|word| word.contains('\0')) {
        return Err(InvalidSpec(format!("the command {NUL}")));
    }
    for (key, value) in env {
        if key.is_empty() || key.contains(|c: char| c == '=' || c.is_whitespace() || c.is_control()) {
            return Err(InvalidSpec(format!("{key:?} is not a valid name of an environment variable")));
        }
        if OWN_VARIABLES.contains(&key.as_str()) {
            return Err(InvalidSpec(format!(
                "the variable {key} is set by ostler: leave it out. To change the address that agents use, set \
                 `network.platform_url`"
            )));
        }
        if value.contains('\0') {
            return Err(InvalidSpec(format!("the value of {key} {NUL}")));
        }
    }
    let Some(directory) = directory else { return Ok(()) };
    if !directory.starts_with('/') {
        return Err(InvalidSpec(format!("the directory `{directory}` is not an absolute path")));
    }
    if directory.contains('\0') {
        return Err(InvalidSpec(format!("the directory {NUL}")));
    }
    Ok(())
}

impl SpecPatch {
    /// Checks the new values. The names of variables to be removed are not checked, because an older version may have
    /// accepted a name that is invalid today.
    ///
    /// # Errors
    /// If no container can be created from it.
    pub fn check(&self) -> Result<(), InvalidSpec> {
        self.image.as_deref().map_or(Ok(()), check_image)?;
        let set = self.env.iter().filter_map(|(key, value)| Some((key, value.as_ref()?)));
        let directory = self.workspace_dir.as_deref().filter(|directory| !directory.is_empty());
        check_process(self.command.as_deref().unwrap_or_default(), set, directory)
    }
}
