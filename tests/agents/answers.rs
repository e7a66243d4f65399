//! The output of `ostler message` for every form of an agent's response.

use super::make;
use crate::support::daemon::Site;

#[test]
fn message_command_prints_every_response_form_and_agent_failure() {
    let mut site = Site::new("");
    site.serve();
    make(&site, "rude", &["-e", "DEMO_CARD=0.3"]);
    for (manner, printed) in [
        ("http10", "rude heard: hi\n"),
        ("chunked", "rude heard: hi\n"),
        ("sse", "rude heard: hi\n"),
        ("artifacts", "rude heard: hi\nand more\ndone\n"),
    ] {
        let output = site.ostler(["message", "rude", "as", manner, "hi"]);
        assert_eq!((output.code, output.stdout.as_str()), (0, printed), "{manner}: {}", output.stderr);
    }
    for (manner, expected) in [
        ("failed", "rude ended its task as failed: rude heard: hi"),
        (
            "plain",
            "rude answered with HTTP status 200 and text/plain, which is not an A2A response: rude heard: hi",
        ),
        ("html", "rude answered with HTTP status 200 and text/html, which is not an A2A response: <html>"),
        ("empty", "rude answered with HTTP status 204 and no content type, which is not an A2A response"),
        ("status:404", "rude answered with an error: rude heard: hi (HTTP status 404)"),
        ("status:409", "rude answered with an error: rude heard: hi (HTTP status 409)"),
        ("status:410", "rude answered with an error: rude heard: hi (HTTP status 410)"),
        ("cut", "the response of rude was cut off"),
        ("redirect", "failed to reach workspace agent: it responded with HTTP status 307"),
    ] {
        let output = site.ostler(["message", "rude", "as", manner, "hi"]);
        assert_eq!(output.code, 1, "{manner}: {} {}", output.stdout, output.stderr);
        assert!(output.stderr.contains(expected), "{manner}: {}", output.stderr);
        assert!(
            !output.stderr.contains("daemon"),
            "{manner}: the error of the agent is attributed to the daemon: {}",
            output.stderr
        );
    }
    let unknown = site.ostler(["message", "unknown", "hi"]);
    assert_eq!(unknown.code, 3, "{}", unknown.stderr);
}

#[test]
fn message_command_uses_a2a_1_0_when_agent_card_declares_it() {
    let mut site = Site::new("");
    site.serve();
    make(&site, "new", &["-e", "DEMO_CARD=1.0"]);
    for (manner, code, stdout, stderr) in [
        ("none", 0, "new heard: hi\n", ""),
        ("artifacts", 0, "new heard: hi\nand more\ndone\n", ""),
        ("failed", 1, "", "new ended its task as TASK_STATE_FAILED: new heard: hi"),
    ] {
        let output = site.ostler(["message", "new", "as", manner, "hi"]);
        assert_eq!((output.code, output.stdout.as_str()), (code, stdout), "{manner}: {}", output.stderr);
        assert!(output.stderr.contains(stderr), "{manner}: {}", output.stderr);
    }
}
