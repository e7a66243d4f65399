//! Images: whether one exists locally, and pulls.

use futures_util::StreamExt;
use podman_api::{models::LibpodImagesPullReport, opts::PullOpts};

use super::{
    super::{EngineError, EngineResult, ErrorKind, Progress},
    client::Podman,
    errors::{Failure, one_line},
    names::is_image_reference,
};

pub(super) async fn exists(podman: &Podman, image: &str) -> EngineResult<bool> {
    if !is_image_reference(image) {
        return Ok(false);
    }
    let call = format!("inspect image {image}");
    podman.api.images().get(image).exists().await.map_err(podman.failed(call))
}

pub(super) async fn pull(podman: &Podman, image: &str, progress: Progress<'_>) -> EngineResult<()> {
    let call = format!("pull image {image}");
    let missing = |why: &str| Err(EngineError::new(ErrorKind::ImageMissing, call.as_str(), one_line(why)));
    let options = PullOpts::builder().reference(image).build();
    let images = podman.api.images();
    let mut reports = images.pull(&options);
    while let Some(report) = reports.next().await {
        match report.map_err(Failure::from) {
            Ok(report) => match pull_step(report, progress) {
                Some(Ok(())) => return Ok(()),
                Some(Err(why)) => return missing(&why),
                None => {}
            },
            // Every error response of Podman means that the image is not available.
            Err(failure @ Failure::Answered { .. }) => return missing(&failure.message()),
            Err(failure) => return Err(podman.failed(call.as_str())(failure)),
        }
    }
    Err(EngineError::new(ErrorKind::Other, call.as_str(), "Podman reported no result of the pull"))
}

/// Evaluates one report of a pull. `Some` ends the pull.
fn pull_step(report: LibpodImagesPullReport, progress: Progress<'_>) -> Option<Result<(), String>> {
    // If the registry refuses the pull, podman-api returns a success that contains an error.
    if let Some(error) = report.error.filter(|error| !error.is_empty()) {
        return Some(Err(error));
    }
    for line in report.stream.iter().flat_map(|text| text.lines()) {
        progress(line);
    }
    report.id.filter(|id| !id.is_empty()).map(|_| Ok(()))
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    /// podman-api returns a failed pull as a success whose report contains an error.
    #[test]
    fn image_pull_ends_with_success_or_the_registry_error() {
        let report = |stream: &str, id: &str, error: &str| LibpodImagesPullReport {
            stream: Some(stream.to_owned()),
            id: Some(id.to_owned()),
            error: Some(error.to_owned()),
            images: None,
        };
        let progress_lines = Mutex::new(Vec::new());
        let step = |report| pull_step(report, &|line| progress_lines.lock().unwrap().push(line.to_owned()));
        assert_eq!(step(report("Copying blob 1\nCopying blob 2\n", "", "")), None);
        assert_eq!(step(report("", "", "manifest unknown")), Some(Err("manifest unknown".into())));
        assert_eq!(step(report("", "c0ffee", "")), Some(Ok(())));
        assert_eq!(*progress_lines.lock().unwrap(), ["Copying blob 1", "Copying blob 2"]);
    }
}
