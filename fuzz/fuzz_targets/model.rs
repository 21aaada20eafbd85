//! Any bytes as a model: bound to its family and planned, or refused.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pith::{Model, bytes::Bytes, plan::Plan};

fuzz_target!(|bytes: &[u8]| {
    let Ok(model) = Model::from_bytes(Bytes::from_vec(bytes.to_vec())) else { return };
    let Ok(plan) = Plan::new(&model, &[], 64) else { return };
    if let Some(head) = model.classifier() {
        assert_eq!(head.labels().len(), plan.head.part.weight.n_out);
        assert!(head.rows(&[0]).eq(0..1));
    }
});
