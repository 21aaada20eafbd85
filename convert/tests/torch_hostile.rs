//! torch.save files made to harm: each is refused by name, runs nothing, and takes little memory.
//! This binary's allocator counts. (tests/torch.rs has what is wrong by accident.)
#![allow(missing_docs)]

mod support;

#[path = "../../tests/support/counting.rs"]
mod counting;

use pith_convert::source::{self, Source};
use std::fs;
use support::{
    data,
    stream::{HEAD, LITTLE, dict, int, list, stream, tensor, text, tuple, zeros},
    zip::{archive, position},
};

/// What any file may take beside its own bytes.
const MOST: usize = 64 << 20;

/// The error for a file, which must be short, and which takes at most [`MOST`] bytes to find.
fn refusal(what: &str, file: &[u8]) -> String {
    let (result, peak) = counting::peak(|| source::read(file));
    assert!(peak < MOST, "{what}: {peak} bytes");
    let error = result.expect_err(what).to_string();
    assert!(error.len() < 4000, "{what}: an error of {} bytes", error.len());
    error
}

/// The same pickle in both containers.
fn both(pickle: &[u8]) -> [Vec<u8>; 2] {
    [archive(&[("a/data.pkl", pickle)]), stream(pickle, &list(&[]), &[])]
}

fn refused(pickle: &[u8], wanted: &str) {
    for file in both(pickle) {
        let error = refusal(wanted, &file);
        assert!(error.contains(wanted), "{wanted}: {error}");
    }
}

/// Whatever can run code in Python, under whichever opcode names it.
#[test]
fn functions_are_refused_by_name_under_every_opcode() {
    for (module, name) in [
        ("os", "system"),
        ("posix", "system"),
        ("nt", "system"),
        ("subprocess", "Popen"),
        ("builtins", "eval"),
        ("builtins", "exec"),
        ("builtins", "getattr"),
        ("builtins", "__import__"),
        ("__builtin__", "apply"),
        ("importlib", "import_module"),
        ("runpy", "run_path"),
        ("pickle", "loads"),
        ("torch", "load"),
        ("torch.hub", "load"),
        ("torch.serialization", "load"),
        ("torch._utils", "_rebuild_wrapper_subclass"),
        ("torch.nn.modules.linear", "Linear"),
        ("numpy.core.multiarray", "_reconstruct"),
        ("collections", "OrderedDict.__class__"),
        ("socket", "create_connection"),
        ("webbrowser", "open"),
        ("shutil", "rmtree"),
    ] {
        let wanted = format!("`{module}.{name}`");
        let global = format!("c{module}\n{name}\n").into_bytes();
        let stacked = [text(module), text(name), vec![0x93]].concat();
        let inst = format!("(i{module}\n{name}\n").into_bytes();
        for named in [global, stacked, inst] {
            for run in [&b")R."[..], b".", b")\x81.", b")}\x92.", b"}b.", b"(o.", b"0}."] {
                refused(&[b"\x80\x04", &*named, run].concat(), &wanted);
                // Inside a state dict, as a value.
                let value = [&*named, &run[..run.len() - 1]].concat();
                refused(&dict(&[("weight", value)]), &wanted);
            }
        }
    }
}

#[test]
fn opcodes_that_make_objects_or_reach_outside_are_refused() {
    let dictionary = "ccollections\nOrderedDict\n";
    for (program, wanted) in [
        (format!("{dictionary})\u{1}"), "opcode 0x01"),
        (format!("({dictionary}o"), "opcode 0x6f"),
        ("(icollections\nOrderedDict\n".into(), "opcode 0x69"),
        ("Psecret\n".into(), "opcode 0x50"),
        ("I1\n".into(), "opcode 0x49"),
        ("L1L\n".into(), "opcode 0x4c"),
        ("F1\n".into(), "opcode 0x46"),
        ("S'a'\n".into(), "opcode 0x53"),
        ("Va\n".into(), "opcode 0x56"),
        ("Np1\n".into(), "opcode 0x70"),
        ("g1\n".into(), "opcode 0x67"),
        ("N2".into(), "opcode 0x32"),
        ("NQ".into(), "no storage"),
        (format!("{dictionary}}}b"), "attributes of what is no OrderedDict"),
        (format!("{dictionary}NR"), "no allowed name"),
        (format!("{dictionary}NN\u{2}"), "opcode 0x02"),
        ("ctorch\nFloatStorage\n)R".into(), "StorageClass"),
        ("ctorch._utils\n_rebuild_tensor_v2\n}R".into(), "no allowed name"),
        ("ctorch._tensor\n_rebuild_from_type_v2\n(NNNNtR".into(), "unknown class"),
        ("ctorch._utils\n_rebuild_parameter\nN\u{1}".into(), "opcode 0x01"),
    ] {
        refused(&[b"\x80\x02", program.as_bytes(), b"."].concat(), wanted);
    }
    // NEWOBJ and NEWOBJ_EX, EXT1, EXT2, EXT4, LONG4, NEXT_BUFFER, BYTEARRAY8.
    for op in [0x81, 0x92, 0x82, 0x83, 0x84, 0x8b, 0x97, 0x96] {
        let program = [b"\x80\x05ccollections\nOrderedDict\n)", &[op][..], &[1; 8]].concat();
        refused(&program, &format!("opcode {op:#04x}"));
    }
}

/// So many copies of some bytes.
fn times(n: usize, what: &[u8]) -> Vec<u8> {
    what.repeat(n)
}

#[test]
fn bombs_end_early() {
    let root = |body: &[&[u8]]| [b"\x80\x04", &*body.concat(), b"."].concat();
    let long = text(&"k".repeat(1 << 20));
    let short = |i: usize| text(&format!("{i:0>1000}"));
    let many = |n: usize, value: &[u8]| -> Vec<u8> {
        (0..n).flat_map(|i| [text(&i.to_string()), value.to_vec()].concat()).collect()
    };
    let slots: Vec<u8> =
        (1..2000u32).flat_map(|i| [&b"r"[..], &(1024 * i).to_le_bytes()].concat()).collect();
    let tiny = tensor("0", 1, b"", 0, &[1]);
    for (wanted, pickle) in [
        ("values", root(&[&times(2 << 20, b"N")])),
        ("values", root(&[b"N", &times(2 << 20, b"\x85")])),
        ("values", root(&[b"N", &times(2 << 20, b"\x94")])),
        ("values", root(&[b"N\x94", &times(2 << 20, b"h\0")])),
        ("values", root(&[b"]\x94(", &times(300_000, b"N"), b"e", &times(9, b"(h\0h\0h\0e")])),
        ("values", root(&[b"}", &times(600_000, b"NNs")])),
        // Each tuple holds the one before it twice: 2^n values to whoever follows references.
        ("values", root(&[b"N\x94", &times(400_000, b"\x94h\0\x86")])),
        ("a list", root(&[b"N", &times(500_000, b"\x85")])),
        ("inside each other", root(&[&times(100_000, b"(")])),
        ("inside each other", root(&[&times(100_000, b"](")])),
        ("memo slot", root(&[b"Nr\xff\xff\xff\xff"])),
        ("values", root(&[b"N", &slots])),
        ("bytes wanted", root(&[b"\x8d\xff\xff\xff\xff\xff\xff\xff\x7f"])),
        ("bytes wanted", root(&[b"\x8e\0\0\0\0\0\0\0\x80"])),
        ("an integer of 255 bytes", root(&[b"\x8a\xff"])),
        ("name is too long", root(&[&long, b"\x94", b"h\0\x93"])),
        (
            "no storage",
            root(&[
                &tuple(&[
                    text("storage"),
                    b"ctorch\nFloatStorage\n".to_vec(),
                    long.clone(),
                    text("cpu"),
                    int(1),
                ]),
                b"Q",
            ]),
        ),
        // Keys out of the memo: the pickle says a megabyte once and means it a hundred thousand times.
        ("has 1048576 bytes", root(&[&long, b"\x940}(", &times(100_000, b"h\0N"), b"u"])),
        (
            "has 1048576 bytes",
            root(&[
                &long,
                b"\x940}(",
                &text("model"),
                b"}(",
                &text("a"),
                &tiny,
                b"u",
                &times(100_000, b"h\0N"),
                b"u",
            ]),
        ),
        (
            "entries beside the weights",
            root(&[
                &short(0),
                b"\x940}(",
                &text("model"),
                b"}(",
                &text("a"),
                &tiny,
                b"u",
                &times(100_000, b"h\0N"),
                b"u",
            ]),
        ),
        // A large dict beside the weights, ten thousand times.
        (
            "entries beside the weights",
            root(&[
                b"}(",
                &(0..64).flat_map(|i| [short(i), short(i)].concat()).collect::<Vec<_>>(),
                b"u\x940}(",
                &text("model"),
                b"}(",
                &text("a"),
                &tiny,
                b"u",
                &many(20_000, b"h\0"),
                b"u",
            ]),
        ),
        ("more than 65536 tensors", root(&[&tiny, b"\x940}(", &many(100_000, b"h\0"), b"u"])),
        // A tensor each, of shared arguments.
        (
            "values",
            root(&[
                b"ctorch._utils\n_rebuild_tensor_v2\n\x940",
                &tuple(&[
                    [
                        tuple(&[
                            text("storage"),
                            b"ctorch\nFloatStorage\n".to_vec(),
                            text("0"),
                            text("cpu"),
                            int(1),
                        ]),
                        b"Q".to_vec(),
                    ]
                    .concat(),
                    int(0),
                    tuple(&[int(1), int(1), int(1), int(1)]),
                    tuple(&[int(1), int(1), int(1), int(1)]),
                ]),
                b"\x94",
                &times(200_000, b"h\0h\x01R"),
            ]),
        ),
    ] {
        for file in [
            archive(&[("a/data.pkl", &pickle), ("a/data/0", &[0; 4])]),
            stream(&pickle, &list(&["0"]), &zeros(1)),
        ] {
            let error = refusal(wanted, &file);
            assert!(
                error.contains(wanted) || error.contains("belongs to no tensor"),
                "{wanted}: {error}"
            );
        }
        let zip = archive(&[("a/data.pkl", &pickle), ("a/data/0", &[0; 4])]);
        let error = refusal(wanted, &zip);
        assert!(error.contains(wanted), "{wanted}: {error}");
    }
}

#[test]
fn streams_that_lie_are_refused() {
    let four = |key: &str| dict(&[("a", tensor(key, 4, b"N", 0, &[2, 2]))]);
    let good = stream(&four("0"), &list(&["0"]), &zeros(4));
    assert_eq!(source::read(&good).unwrap().0[0].shape, [2, 2]);
    let part = |start: i64, len: i64| tuple(&[text("1"), int(start), int(len)]);
    let parts = dict(&[("a", tensor("0", 8, &part(4, 4), 1, &[3]))]);
    let values: Vec<u8> = (0..8).flat_map(|i| (i as f32).to_le_bytes()).collect();
    let file = stream(&parts, &list(&["0"]), &[&8u64.to_le_bytes()[..], &values].concat());
    let source = Source::from_bytes(file).unwrap();
    assert_eq!(source.values(source.tensor("a").unwrap()).unwrap(), [5.0, 6.0, 7.0]);

    let of = |tensor: Vec<u8>| stream(&dict(&[("a", tensor)]), &list(&["0"]), &zeros(4));
    let module =
        [tuple(&[text("module"), b"N".to_vec(), text("x.py"), text("import os")]), b"Q".to_vec()]
            .concat();
    let two_types =
        dict(&[("a", tensor("0", 4, b"N", 0, &[4])), ("b", tensor("0", 2, b"N", 0, &[2]))]);
    for (wanted, file) in [
        ("ends before storage `0`", stream(&four("0"), &list(&["0"]), &[0; 7])),
        ("has 3 elements, its tensors say 4", stream(&four("0"), &list(&["0"]), &zeros(3))),
        ("elements, its tensors say 4", stream(&four("0"), &list(&["0"]), &[0xff; 24])),
        ("15 bytes are left", stream(&four("0"), &list(&["0"]), &zeros(4)[..23])),
        ("bytes follow", [&*good, &[0]].concat()),
        ("isn't in the file", stream(&four("0"), &list(&[]), &[])),
        ("belongs to no tensor", stream(&four("0"), &list(&["1"]), &zeros(4))),
        ("is listed twice", stream(&four("0"), &list(&["0", "0"]), &times(2, &zeros(4)))),
        ("are no list", stream(&four("0"), &dict(&[]), &zeros(4))),
        ("is no string", stream(&four("0"), b"\x80\x02]Na.", &zeros(4))),
        ("has 4 elements of F32, and 2 of F32", stream(&two_types, &list(&["0"]), &zeros(4))),
        ("a storage of -1 elements", of(tensor("0", -1, b"N", 0, &[1]))),
        ("elements, its tensors say", of(tensor("0", i64::MAX, b"N", 0, &[1]))),
        ("leaves its storage", of(tensor("0", 4, b"N", 1, &[2, 2]))),
        ("leaves its storage", of(tensor("0", 4, b"N", 0, &[1 << 40]))),
        ("begins at element -1", of(tensor("0", 4, b"N", -1, &[1]))),
        ("a part that leaves", of(tensor("0", 4, &part(1, 4), 0, &[1]))),
        ("a part that leaves", of(tensor("0", 4, &part(i64::MAX, i64::MAX), 0, &[1]))),
        ("a part that leaves", of(tensor("0", 4, &part(-1, 1), 0, &[1]))),
        ("leaves its storage", of(tensor("0", 4, &part(1, 2), 0, &[3]))),
        ("no triple", of(tensor("0", 4, &tuple(&[]), 0, &[1]))),
        ("whole module", of(module)),
        (
            "version 1002",
            [HEAD, LITTLE]
                .concat()
                .iter()
                .enumerate()
                .map(|(i, &b)| if i == 18 { 0xea } else { b })
                .collect(),
        ),
        ("version that is no number", [&HEAD[..15], &list(&[])].concat()),
        ("big-endian", [HEAD, &LITTLE[..LITTLE.len() - 3], b"\x89s."].concat()),
        ("no flag", [HEAD, &dict(&[])].concat()),
        ("is no dict", [HEAD, &list(&[])].concat()),
        ("values", [&HEAD[..15], b"\x80\x02", &times(1 << 20, b"N"), b"."].concat()),
        ("values", [HEAD, LITTLE, &four("0"), b"\x80\x02", &times(1 << 20, b"N"), b"."].concat()),
    ] {
        let error = refusal(wanted, &file);
        assert!(error.contains(wanted), "{wanted}: {error}");
    }
}

/// A number of torch's zip64 records, replaced by absurd ones.
#[test]
fn zip64_records_that_lie_are_refused() {
    let good = fs::read(data().join("views.bin")).unwrap();
    let end64 = position(&good, b"PK\x06\x06", 0);
    let locator = position(&good, b"PK\x06\x07", 0);
    let fields = [4, 24, 32, 40, 48].map(|field| end64 + field);
    for at in fields.into_iter().chain([locator + 8]) {
        for number in [0, 1, 1 << 31, 1 << 32, 1 << 62, u64::MAX] {
            let mut file = good.clone();
            file[at..at + 8].copy_from_slice(&number.to_le_bytes());
            if file != good {
                let error = refusal("zip64", &file);
                assert!(error.contains("zip"), "{number} at {at}: {error}");
            }
        }
    }
}

#[cfg(unix)]
mod files {
    //! What lies in the folder under a weight file's name.

    use super::*;
    use std::{
        os::unix::fs::symlink,
        path::{Path, PathBuf},
        process::Command,
    };
    use support::gpt2;

    const SECOND: &str = "model-00002-of-00003.safetensors";

    fn error(path: &Path) -> String {
        let (result, peak) = counting::peak(|| Source::open(path));
        assert!(peak < MOST, "{peak} bytes");
        result.err().expect("must be refused").to_string()
    }

    /// Replaces a file by what `make` puts there.
    fn replaced(name: &str, make: impl FnOnce(PathBuf)) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        gpt2().write_sharded(folder.path());
        fs::remove_file(folder.path().join(name)).unwrap();
        make(folder.path().join(name));
        folder
    }

    fn pipe(path: PathBuf) {
        assert!(Command::new("mkfifo").arg(path).status().unwrap().success());
    }

    /// Hugging Face's cache: `snapshots/<commit>/<file>` links to `../../blobs/<hash>`.
    #[test]
    fn links_of_hugging_faces_cache_are_followed() {
        let cache = tempfile::tempdir().unwrap();
        let (blobs, snapshot) = (cache.path().join("blobs"), cache.path().join("snapshots/main"));
        fs::create_dir_all(&snapshot).unwrap();
        gpt2().write_sharded(&blobs);
        for file in fs::read_dir(&blobs).unwrap() {
            let name = file.unwrap().file_name();
            symlink(Path::new("../../blobs").join(&name), snapshot.join(&name)).unwrap();
        }
        let wanted = Source::open(&blobs).unwrap().tensors().len();
        assert_eq!(Source::open(&snapshot).unwrap().tensors().len(), wanted);
    }

    #[test]
    fn pipes_devices_and_folders_are_refused_at_once() {
        for name in [SECOND, "model.safetensors.index.json"] {
            for make in [
                pipe as fn(PathBuf),
                |path| fs::create_dir(path).unwrap(),
                |path| symlink("/dev/zero", path).unwrap(),
                |path| symlink("/dev/stdin", path).unwrap(),
                |path| symlink("..", path).unwrap(),
            ] {
                let folder = replaced(name, make);
                // Standard input may be a file.
                let refused = error(folder.path());
                let what = ["no regular file", "neither safetensors", "JSON", "no object"];
                assert!(what.iter().any(|what| refused.contains(what)), "{name}: {refused}");
            }
        }
    }

    #[test]
    fn links_that_lead_nowhere_or_to_other_files_are_refused_by_name() {
        let folder = replaced(SECOND, |path| symlink(&path, &path).unwrap());
        assert!(error(folder.path()).contains(SECOND));
        let folder = replaced(SECOND, |path| symlink("gone", path).unwrap());
        assert!(error(folder.path()).contains(SECOND));
        let folder = replaced(SECOND, |path| symlink("/etc/passwd", path).unwrap());
        let refused = error(folder.path());
        assert!(refused.contains(SECOND) && refused.contains("neither safetensors"), "{refused}");
    }

    /// The one file that a path names.
    #[test]
    fn single_files_that_are_no_files_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        for (name, make) in [
            ("ckpt.pt", pipe as fn(PathBuf)),
            ("consolidated.00.pth", |path| fs::create_dir(path).unwrap()),
            ("pytorch_model.bin", |path| symlink("/dev/zero", path).unwrap()),
        ] {
            make(folder.path().join(name));
            assert!(error(folder.path()).contains("no regular file"), "{name}");
        }
        assert!(error(&folder.path().join("ckpt.pt")).contains("no regular file"));
    }
}
