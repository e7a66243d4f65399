//! `ostler message`

use serde_json::{Value, json};

use crate::cli::{
    Session,
    args::MessageArgs,
    client::workspace,
    failure::{Exit, Failure},
    text::printable,
};

pub(in crate::cli) async fn run(session: &Session<'_>, args: MessageArgs) -> Result<u8, Failure> {
    let text = args.text.join(" ");
    let message = json!({
        "method": "message/send",
        "params": { "message": { "role": "user", "parts": [{ "kind": "text", "text": text }] } },
    });
    let answer: Value = session.client.post(&format!("{}/a2a", workspace(&args.name)), &message).await?;
    if session.out.json() {
        session.out.value(&answer)?;
        return Ok(0);
    }
    if let Some(error) = answer.get("error").filter(|error| !error.is_null()) {
        let said = error["message"].as_str().map_or_else(|| error.to_string(), str::to_owned);
        let told = format!("{} answered with an error: {}", args.name, printable(&said));
        return Err(Failure::new(Exit::Failed, told));
    }
    for line in said(&answer).lines() {
        session.out.line(&printable(line))?;
    }
    Ok(0)
}

/// The text of an answer; of one in another form, all of it.
fn said(answer: &Value) -> String {
    let result = &answer["result"];
    let parts = [&result["parts"], &result["status"]["message"]["parts"], &result["artifacts"][0]["parts"]];
    let texts: Vec<&str> = parts
        .into_iter()
        .filter_map(Value::as_array)
        .flatten()
        .filter_map(|part| part["text"].as_str())
        .collect();
    if texts.is_empty() { answer.to_string() } else { texts.join("\n") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_of_an_answer_is_found_wherever_agents_put_it() {
        let parts = json!([{ "kind": "text", "text": "one" }, { "kind": "data" }, { "text": "two" }]);
        assert_eq!(said(&json!({ "result": { "parts": parts } })), "one\ntwo");
        assert_eq!(said(&json!({ "result": { "artifacts": [{ "parts": parts }] } })), "one\ntwo");
        assert_eq!(said(&json!({ "result": 7 })), r#"{"result":7}"#);
    }
}
