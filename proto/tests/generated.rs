//! The committed code in `src/gen` is what the `.proto` files say.
//!
//! With `SKERRY_REGENERATE=1` the test writes the files instead of comparing them.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use prost::Message;

fn protos(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            protos(&path, found);
        } else if path.extension().is_some_and(|e| e == "proto") {
            found.push(path);
        }
    }
}

fn generate(root: &Path, out: &Path) {
    let mut files = Vec::new();
    for dir in ["skerry", "cri", "containerd", "dmi"] {
        protos(&root.join(dir), &mut files);
    }
    files.sort();
    let set = protox::compile(&files, [root]).unwrap();
    // The descriptors that are served need no comments; they are most of their size.
    let mut bare = set.clone();
    for file in &mut bare.file {
        file.source_code_info = None;
    }
    fs::write(out.join("descriptors.bin"), bare.encode_to_vec()).unwrap();
    tonic_prost_build::configure()
        .out_dir(out)
        .bytes(".skerry.sync.v1")
        .codec_path("crate::codec::SmallCodec")
        .build_transport(false)
        .compile_fds(set)
        .unwrap();
}

fn read(dir: &Path) -> BTreeMap<String, Vec<u8>> {
    fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap())
        .map(|entry| (entry.file_name().to_string_lossy().into_owned(), fs::read(entry.path()).unwrap()))
        .collect()
}

#[test]
fn generated_code_is_what_the_protos_say() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let committed = root.join("src/gen");
    if std::env::var_os("SKERRY_REGENERATE").is_some() {
        generate(root, &committed);
        return;
    }
    let fresh = tempdir();
    generate(root, &fresh);
    let (expected, actual) = (read(&fresh), read(&committed));
    fs::remove_dir_all(&fresh).unwrap();
    assert_eq!(
        expected.keys().collect::<Vec<_>>(),
        actual.keys().collect::<Vec<_>>(),
        "run SKERRY_REGENERATE=1 cargo test -p skerry-proto"
    );
    for (name, content) in &expected {
        assert!(actual[name] == *content, "{name} is stale: run SKERRY_REGENERATE=1 cargo test -p skerry-proto");
    }
}

fn tempdir() -> PathBuf {
    let dir = std::env::temp_dir().join(format!("skerry-proto-{}", std::process::id()));
    fs::create_dir_all(&dir).unwrap();
    dir
}
