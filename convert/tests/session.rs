//! What a session does beside logits: embeddings as PyTorch's, states saved and loaded, work that is
//! stopped, models that are shared, and memory that is not asked for in a step.

use std::{fs, ops::ControlFlow, path::Path, sync::Arc, thread};

use pith::{
    Error, Model, Session, cache,
    quant::Format,
    sampler::{self, Sampler},
    session::{Options, Pooling},
};
use pith_convert::Target;
use serde_json::Value;

#[path = "../../tests/goldens/support/checkpoint.rs"]
mod checkpoint;
use checkpoint::{Checkpoint, Layout, goldens};

#[path = "../../tests/support/counting.rs"]
mod counting;

fn model(folder: &Path, variant: &str, format: Format) -> Model {
    let source = folder.join(variant);
    fs::create_dir_all(&source).unwrap();
    Checkpoint::open(variant).write(&source, Layout::PLAIN);
    let out = folder.join(format!("{variant}.gguf"));
    let options = pith_convert::Options { target: Target::Format(format), ..Default::default() };
    pith_convert::convert(&source, &out, &options, &mut |_| ControlFlow::Continue(())).unwrap();
    Model::open(&out).unwrap()
}

fn bits(x: &[f32]) -> Vec<u32> {
    x.iter().map(|x| x.to_bits()).collect()
}

const IDS: [u32; 21] = [5, 9, 2, 44, 17, 30, 8, 61, 3, 3, 12, 90, 41, 7, 7, 100, 55, 23, 80, 1, 64];

#[test]
fn embeddings_are_pytorchs_last_hidden_states() {
    let folder = tempfile::tempdir().unwrap();
    let file = fs::read(goldens().join("embeddings.json")).unwrap();
    let all: Value = serde_json::from_slice(&file).unwrap();
    let mut n = 0;
    for (variant, rows) in all.as_object().unwrap().iter().filter(|(name, _)| *name != "made_by") {
        let model = model(folder.path(), variant, Format::F32);
        let cache = cache::Type::F32; // PyTorch rounds neither keys nor values
        let options = Options { n_batch: 7, score: true, cache, ..Options::default() };
        let mut session = Session::new(&model, &options).unwrap();
        for row in rows.as_array().unwrap() {
            let numbers = |key: &str| row[key].as_array().unwrap().clone();
            let ids: Vec<u32> =
                numbers("ids").iter().map(|id| id.as_u64().unwrap() as u32).collect();
            for (pooling, key) in [(Pooling::Mean, "mean"), (Pooling::Last, "last")] {
                let wanted = numbers(key);
                let mut got = vec![f32::NAN; wanted.len()];
                session.embed(0, &ids, pooling, &mut got).unwrap();
                assert_eq!(session.ids(0), ids);
                for (got, wanted) in got.iter().zip(&wanted) {
                    let wanted = wanted.as_f64().unwrap();
                    assert!(
                        (f64::from(*got) - wanted).abs() < 2e-5,
                        "{variant} {key}: {got} {wanted}"
                    );
                    n += 1;
                }
            }
        }
    }
    assert!(n > 1000, "{n} numbers");
}

#[test]
fn an_embedding_needs_room_and_the_right_length() {
    let folder = tempfile::tempdir().unwrap();
    let model = model(folder.path(), "llama", Format::Q8_0);
    let n_embd = model.hparams().n_embd;
    let mut without = Session::new(&model, &Options::default()).unwrap();
    let mut out = vec![0.0; n_embd];
    assert!(without.embed(0, &IDS, Pooling::Mean, &mut out).is_err());
    let mut session = Session::new(&model, &Options { score: true, ..Options::default() }).unwrap();
    assert!(session.embed(0, &IDS, Pooling::Mean, &mut out[1..]).is_err());
    assert!(session.embed(1, &IDS, Pooling::Mean, &mut out).is_err());
    assert!(session.embed(0, &[], Pooling::Mean, &mut out).is_err());
    session.embed(0, &IDS, Pooling::Last, &mut out).unwrap();
}

#[test]
fn a_saved_state_goes_on_as_if_nothing_had_happened() {
    let folder = tempfile::tempdir().unwrap();
    let model = model(folder.path(), "llama", Format::Q4_0);
    for &cache in cache::Type::ALL {
        let options = Options { n_ctx: 40, n_seq: 2, cache, ..Options::default() };
        let mut session = Session::new(&model, &options).unwrap();
        for n in [0, 1, 15, 16, 17, 21] {
            session.truncate(1, 0);
            if n > 0 {
                session.eval(1, &IDS[..n]).unwrap();
            }
            let mut state = vec![0; session.state_size(1)];
            session.save_state(1, &mut state).unwrap();
            let wanted = bits(session.eval(1, &IDS[..5]).unwrap());

            let longer = Options { n_ctx: 64, n_seq: 3, n_threads: 1, ..options.clone() };
            let mut other = Session::new(&model, &longer).unwrap();
            other.eval(2, &IDS[4..9]).unwrap();
            other.load_state(2, &state).unwrap();
            assert_eq!(other.ids(2), &IDS[..n]);
            assert_eq!(bits(other.eval(2, &IDS[..5]).unwrap()), wanted, "{n} tokens");
        }
    }
}

#[test]
fn a_state_that_is_damaged_or_anothers_is_refused_and_changes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let llama = model(folder.path(), "llama", Format::Q4_0);
    let other = model(folder.path(), "llama-bias", Format::Q4_0);
    let options = Options { n_ctx: 32, ..Options::default() };
    let mut session = Session::new(&llama, &options).unwrap();
    session.eval(0, &IDS[..9]).unwrap();
    let mut state = vec![0; session.state_size(0)];
    session.save_state(0, &mut state).unwrap();
    let n = state.len();
    assert!(
        session.save_state(0, &mut state[1..]).is_err()
            && session.save_state(1, &mut state).is_err()
    );

    session.truncate(0, 3);
    for cut in (0..n).step_by(1 + n / 300).chain(n - 9..n) {
        assert!(session.load_state(0, &state[..cut]).is_err(), "cut at {cut}");
    }
    for at in (0..64).chain((64..n).step_by(1 + n / 300)).chain(n - 8..n) {
        state[at] ^= 1 << (at % 8);
        assert!(session.load_state(0, &state).is_err(), "byte {at}");
        state[at] ^= 1 << (at % 8);
    }
    assert_eq!(session.ids(0), &IDS[..3]);

    assert!(Session::new(&other, &options).unwrap().load_state(0, &state).is_err());
    let f32s = Options { cache: cache::Type::F32, ..options.clone() };
    assert!(Session::new(&llama, &f32s).unwrap().load_state(0, &state).is_err());
    let short = Options { n_ctx: 8, ..options };
    let error = Session::new(&llama, &short).unwrap().load_state(0, &state);
    assert!(matches!(error, Err(Error::ContextFull { n_ctx: 8, wanted: 9 })));
    session.load_state(0, &state).unwrap();
    assert_eq!(session.ids(0), &IDS[..9]);
}

/// A state whose hash fits what somebody has made of it.
fn forged(state: &[u8], at: usize, bytes: &[u8]) -> Vec<u8> {
    let mut state = state.to_vec();
    state[at..at + bytes.len()].copy_from_slice(bytes);
    let body = state.len() - 8;
    let hash = state[..body].iter().fold(0xcbf2_9ce4_8422_2325u64, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
    });
    state[body..].copy_from_slice(&hash.to_le_bytes());
    state
}

#[test]
fn a_forged_state_is_refused_or_harmless() {
    let folder = tempfile::tempdir().unwrap();
    let model = model(folder.path(), "llama", Format::Q4_0);
    let mut session = Session::new(&model, &Options { n_ctx: 32, ..Options::default() }).unwrap();
    session.eval(0, &IDS[..9]).unwrap();
    let mut state = vec![0; session.state_size(0)];
    session.save_state(0, &mut state).unwrap();
    for n in [0, 8, 10, 32, 33, 1 << 40, u64::MAX / 4, u64::MAX] {
        assert!(session.load_state(0, &forged(&state, 24, &n.to_le_bytes())).is_err(), "{n}");
    }
    for id in [model.hparams().n_vocab as u32, u32::MAX] {
        assert!(session.load_state(0, &forged(&state, 36, &id.to_le_bytes())).is_err());
    }
    // Keys and values may be anything: infinities, and NaN.
    session.load_state(0, &forged(&state, 80, &[0xff; 500])).unwrap();
    session.eval(0, &IDS[..3]).unwrap();
}

#[test]
fn stopped_work_leaves_a_session_as_it_was() {
    let folder = tempfile::tempdir().unwrap();
    let model = model(folder.path(), "llama", Format::Q4_0);
    let options = Options { n_batch: 4, n_seq: 2, n_logits: 2, score: true, ..Options::default() };
    let mut session = Session::new(&model, &options).unwrap();
    let mut fresh = Session::new(&model, &options).unwrap();
    let stopper = session.stopper();
    session.eval(0, &IDS[..6]).unwrap();

    stopper.stop();
    assert!(matches!(session.eval(0, &IDS[6..]), Err(Error::Stopped)));
    // In the second of several steps.
    let mut n = 0;
    let stopped = session.eval_all(0, &IDS[6..], |_, _| {
        n += 1;
        stopper.stop();
    });
    assert!(matches!(stopped, Err(Error::Stopped)) && n == 1);
    let stopped = session.score(0, &IDS[6..12], &IDS[7..13], |at, _| {
        if at == 3 {
            stopper.stop();
        }
    });
    assert!(matches!(stopped, Err(Error::Stopped)));
    stopper.stop();
    assert!(matches!(session.eval_batch(&[(0, &IDS[..2]), (1, &IDS[..2])]), Err(Error::Stopped)));
    assert_eq!((session.ids(0), session.ids(1)), (&IDS[..6], &[][..]));

    let wanted = bits(fresh.eval(0, &IDS).unwrap());
    assert_eq!(bits(session.eval(0, &IDS[6..]).unwrap()), wanted);
}

#[test]
fn a_shared_model_lives_as_long_as_its_sessions() {
    let folder = tempfile::tempdir().unwrap();
    let model = Arc::new(model(folder.path(), "llama", Format::Q4_0));
    let options = Options { n_threads: 1, ..Options::default() };
    let wanted = bits(Session::new(&*model, &options).unwrap().eval(0, &IDS).unwrap());
    let sessions: Vec<Session<'static>> =
        (0..3).map(|_| Session::new(Arc::clone(&model), &options).unwrap()).collect();
    drop(model);
    let run =
        |mut session: Session<'static>| thread::spawn(move || bits(session.eval(0, &IDS).unwrap()));
    let threads: Vec<_> = sessions.into_iter().map(run).collect();
    for thread in threads {
        assert_eq!(thread.join().unwrap(), wanted);
    }
}

#[test]
fn planned_memory_is_what_a_session_says_and_steps_allocate_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let model = model(folder.path(), "llama", Format::Q4_0);
    let options = Options { n_seq: 2, n_batch: 8, n_threads: 1, score: true, ..Options::default() };
    let planned = Session::plan_memory(&model, &options).unwrap();
    let (session, held) = counting::peak(|| Session::new(&model, &options).unwrap());
    assert_eq!(session.memory(), planned);
    // The plan's own list of ops, some kilobytes, isn't part of the sum.
    let total = planned.total() as usize;
    assert!((total..total + 64 * 1024).contains(&held), "{held} bytes for {total}");

    let mut session = session;
    let mut sampler = Sampler::new(sampler::Options::default());
    sampler.reserve(model.hparams().n_vocab).unwrap();
    let mut state = vec![0; 1 << 20];
    let mut embedding = vec![0.0; model.hparams().n_embd];
    let ((), bytes) = counting::peak(|| {
        session.eval(0, &IDS).unwrap();
        session.fork(0, 1);
        for _ in 0..20 {
            let id = sampler.sample(session.eval(1, &[3]).unwrap(), &IDS);
            session.eval(0, &[id]).unwrap();
        }
        session.score(0, &IDS[..9], &IDS[1..10], |_, _| {}).unwrap();
        session.save_state(0, &mut state).unwrap();
        session.load_state(1, &state[..session.state_size(0)]).unwrap();
        session.truncate(0, 4);
        session.embed(0, &IDS, Pooling::Mean, &mut embedding).unwrap();
    });
    assert_eq!(bytes, 0);
}
