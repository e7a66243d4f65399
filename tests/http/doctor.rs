//! `doctor` while Podman does not answer: all queries must run concurrently, so that their timeouts do not add up.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex},
};

use crate::support::{
    fake_engine::Fault,
    registry::{Registry, until},
    wire::{Ask, Wire},
};

#[tokio::test(flavor = "multi_thread")]
async fn doctor_queries_a_frozen_engine_concurrently() {
    let registry = Registry::start().await;
    let requests = Arc::new(Mutex::new(BTreeSet::new()));
    let record = Arc::clone(&requests);
    registry.world.inject(move |call| {
        record.lock().unwrap().insert(call.method);
        Fault::Lost
    });
    let mut doctor = Wire::open(registry.address).await;
    doctor.write(&Ask::get("/doctor").token(&registry.admin).bytes()).await;
    // A sweep pass requests no listing before it has found the sentinel volume. So only the doctor lists containers
    // here.
    until("the doctor has sent all its requests", async || {
        let requests = requests.lock().unwrap();
        ["describe", "inspect_volume", "list_containers"]
            .iter()
            .all(|name| requests.contains(name))
            .then_some(())
    })
    .await;
}
