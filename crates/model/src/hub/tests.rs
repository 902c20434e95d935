//! Downloads from a hub that stands in for the real one, honest or not.

use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::sync::{Arc, Mutex};

use sha2::{Digest, Sha256};
use tempfile::TempDir;

use super::*;

const COMMIT: &str = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";

/// What a server does wrong.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Lie {
    None,
    /// A byte of the weights is another.
    Flipped,
    /// Half of the weights.
    Short,
    /// A checksum that is a path.
    Etag,
    /// A commit that is a path.
    Commit,
    /// A commit of the list that is a path.
    Listed,
    /// Files whose names lead out of the repository.
    Names,
    /// Weights come from another place, where the token must not go.
    Elsewhere,
}

fn files() -> Vec<(&'static str, Vec<u8>)> {
    vec![
        ("config.json", b"{}".to_vec()),
        ("tokenizer.json", b"{\"a\": 1}".to_vec()),
        ("tokenizer_config.json", b"{\"chat_template\": \"x\"}".to_vec()),
        ("model.safetensors", (0..200_000_u32).map(|i| i as u8).collect()),
        ("consolidated.safetensors", vec![1; 10]),
        ("README.md", vec![2; 10]),
    ]
}

struct Server {
    endpoint: String,
    seen: Arc<Mutex<Vec<String>>>,
}

/// Serves [`files`], or others, for as long as the test runs.
fn serve(lie: Lie, files: Vec<(&'static str, Vec<u8>)>) -> Server {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = listener.local_addr().expect("an address").port();
    let seen = Arc::new(Mutex::new(Vec::new()));
    let log = seen.clone();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let mut reader = BufReader::new(stream);
            let mut lines = Vec::new();
            loop {
                let mut line = String::new();
                if reader.read_line(&mut line).unwrap_or(0) == 0 || line.trim().is_empty() {
                    break;
                }
                lines.push(line.trim().to_owned());
            }
            let path = lines.first().and_then(|line| line.split(' ').nth(1)).unwrap_or_default().to_owned();
            let token = lines.iter().any(|line| line.to_lowercase().starts_with("authorization"));
            log.lock().expect("a log").push(format!("{path}{}", if token { " with token" } else { "" }));
            let answer = answer(lie, &files, &path, port);
            let _ = reader.get_mut().write_all(&answer);
        }
    });
    Server { endpoint: format!("http://127.0.0.1:{port}"), seen }
}

fn answer(lie: Lie, files: &[(&'static str, Vec<u8>)], path: &str, port: u16) -> Vec<u8> {
    let respond = |head: String, body: &[u8]| {
        let text = format!("HTTP/1.1 {head}\r\nConnection: close\r\nContent-Length: {}\r\n\r\n", body.len());
        [text.as_bytes(), body].concat()
    };
    if path.starts_with("/api/") {
        let mut names: Vec<&str> = files.iter().map(|(name, _)| *name).collect();
        if lie == Lie::Names {
            names.extend(["../../../../out.json", "..\\out.json", "/tmp/plumb-out.json"]);
        }
        let names: Vec<Value> = names.iter().map(|name| serde_json::json!({ "rfilename": name })).collect();
        let sha = if lie == Lie::Listed { "../../../out" } else { COMMIT };
        let body = serde_json::json!({ "sha": sha, "siblings": names }).to_string();
        return respond("200 OK".into(), body.as_bytes());
    }
    let name = path.rsplit('/').next().unwrap_or_default();
    let Some((_, bytes)) = files.iter().find(|(known, _)| *known == name) else {
        return respond("404 Not Found".into(), b"");
    };
    let weights = name == "model.safetensors";
    let mut etag: String = download::hexadecimal(&Sha256::digest(bytes));
    if lie == Lie::Etag && name == "config.json" {
        etag = "../../../../out".into();
    }
    let commit = if lie == Lie::Commit { "../../../../out" } else { COMMIT };
    let told = format!(
        "x-repo-commit: {commit}\r\nx-linked-etag: \"{etag}\"\r\nETag: \"{etag}\"\r\nx-linked-size: {}",
        bytes.len()
    );
    if lie == Lie::Elsewhere && weights && !path.starts_with("/cdn/") {
        // Another host to whoever compares names.
        return respond(format!("302 Found\r\nLocation: http://localhost:{port}/cdn/{name}\r\n{told}"), b"");
    }
    let mut body = bytes.clone();
    if lie == Lie::Flipped && weights {
        body[100_000] ^= 64;
    }
    if lie == Lie::Short && weights {
        let text = format!(
            "HTTP/1.1 200 OK\r\nConnection: close\r\n{told}\r\nContent-Length: {}\r\n\r\n",
            body.len()
        );
        return [text.as_bytes(), &body[..body.len() / 2]].concat();
    }
    respond(format!("200 OK\r\n{told}"), &body)
}

fn hub(folder: &TempDir, server: &Server) -> Hub {
    Hub {
        cache: Cache::at(folder.path().join("home/hub")),
        endpoint: server.endpoint.clone(),
        token: Some("secret".into()),
        offline: false,
    }
}

/// All files below a folder that are not below another.
fn outside(folder: &Path, inside: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_path_buf()];
    while let Some(folder) = folders.pop() {
        for entry in fs_err::read_dir(&folder).expect("a folder").flatten() {
            let path = entry.path();
            if path == inside {
            } else if path.is_dir() {
                folders.push(path);
            } else {
                found.push(path);
            }
        }
    }
    found
}

#[test]
fn a_model_is_downloaded_whole_and_then_needs_no_hub() {
    let (folder, server) = (tempfile::tempdir().expect("a folder"), serve(Lie::None, files()));
    let hub = hub(&folder, &server);
    let (directory, notes) = hub.model("org/name", "main").expect("a model");
    assert_eq!(notes, [""; 0]);
    for (name, bytes) in files() {
        let there = directory.join(name).exists();
        assert_eq!(there, !["README.md", "consolidated.safetensors"].contains(&name), "{name}");
        assert!(!there || fs_err::read(directory.join(name)).expect("a file") == bytes);
    }
    // What the model does not have is remembered, and nothing is asked again.
    let asked = server.seen.lock().expect("a log").len();
    assert_eq!(hub.model("org/name", "main").expect("a model").0, directory);
    assert_eq!(hub.model("org/name", COMMIT).expect("a model").0, directory);
    assert_eq!(hub.model("org/name", &COMMIT[..9]).expect("a model").0, directory);
    assert_eq!(server.seen.lock().expect("a log").len(), asked);
    assert_eq!(
        fs_err::read_link(directory.join("config.json"))
            .expect("a link")
            .components()
            .next_back()
            .map(|c| c.as_os_str().len()),
        Some(64)
    );
}

#[test]
fn a_snapshot_that_was_filled_in_part_is_completed_or_said_to_be_unknown() {
    let (folder, server) = (tempfile::tempdir().expect("a folder"), serve(Lie::None, files()));
    let mut hub = hub(&folder, &server);
    let snapshot = folder.path().join("home/hub/models--org--name/snapshots").join(COMMIT);
    fs_err::create_dir_all(&snapshot).expect("a folder");
    for (name, bytes) in files()
        .iter()
        .filter(|(name, _)| ["config.json", "tokenizer.json", "model.safetensors"].contains(name))
    {
        fs_err::write(snapshot.join(name), bytes).expect("written");
    }
    hub.cache.repository(Kind::Model, "org/name").remember("main", COMMIT).expect("written");
    hub.offline = true;
    let (directory, notes) = hub.model("org/name", "main").expect("a model");
    assert_eq!(directory, snapshot);
    assert!(
        matches!(&notes[..], [note] if note.contains("tokenizer_config.json") && note.contains("HF_HUB_OFFLINE")),
        "{notes:?}"
    );
    hub.offline = false;
    let honest = std::mem::replace(&mut hub.endpoint, "http://127.0.0.1:1".into());
    let (_, notes) = hub.model("org/name", "main").expect("a model");
    assert!(notes[0].contains("could not be asked"), "{notes:?}");
    hub.endpoint = honest;
    let (_, notes) = hub.model("org/name", "main").expect("a model");
    assert_eq!(notes, [""; 0]);
    assert!(snapshot.join("tokenizer_config.json").is_file());
    let asked = server.seen.lock().expect("a log").clone();
    assert!(!asked.iter().any(|path| path.contains("model.safetensors")), "{asked:?}");
}

#[test]
fn shards_that_an_index_names_are_completed_or_named() {
    let index =
        serde_json::json!({ "weight_map": { "a": "model-1.safetensors", "b": "model-2.safetensors" } })
            .to_string();
    let mut files = files();
    files.retain(|(name, _)| *name != "model.safetensors");
    files.extend([
        ("model.safetensors.index.json", index.clone().into_bytes()),
        ("model-1.safetensors", vec![1; 9]),
        ("model-2.safetensors", vec![2; 9]),
    ]);
    let (folder, server) = (tempfile::tempdir().expect("a folder"), serve(Lie::None, files.clone()));
    let mut hub = hub(&folder, &server);
    let snapshot = folder.path().join("home/hub/models--org--name/snapshots").join(COMMIT);
    fs_err::create_dir_all(&snapshot).expect("a folder");
    for (name, bytes) in files.iter().filter(|(name, _)| !name.starts_with("model-")) {
        fs_err::write(snapshot.join(name), bytes).expect("written");
    }
    fs_err::write(snapshot.join("model-1.safetensors"), [1; 9]).expect("written");
    hub.offline = true;
    let error = hub.model("org/name", COMMIT).expect_err("refused").to_string();
    assert!(error.contains("lacks model-2.safetensors"), "{error}");
    hub.offline = false;
    hub.model("org/name", COMMIT).expect("a model");
    assert_eq!(fs_err::read(snapshot.join("model-2.safetensors")).expect("a file"), [2; 9]);
}

#[test]
fn an_adapter_has_no_config_and_is_downloaded_as_it_is() {
    let files = vec![("adapter_config.json", b"{}".to_vec()), ("adapter_model.safetensors", vec![3; 40])];
    let (folder, server) = (tempfile::tempdir().expect("a folder"), serve(Lie::None, files));
    let hub = hub(&folder, &server);
    let (directory, _) = hub.model("org/adapter", "main").expect("an adapter");
    assert!(directory.join("adapter_model.safetensors").is_file());
    let asked = server.seen.lock().expect("a log").len();
    hub.model("org/adapter", "main").expect("an adapter");
    assert_eq!(server.seen.lock().expect("a log").len(), asked);
}

#[test]
fn what_a_lying_server_says_is_refused_and_nothing_is_written_outside() {
    for (lie, said) in [
        (Lie::Flipped, "not those that the hub announces"),
        (Lie::Short, "model.safetensors"),
        (Lie::Etag, "checksum \"../../../../out\""),
        (Lie::Commit, "commit \"../../../../out\""),
        (Lie::Listed, "commit \"../../../out\""),
    ] {
        let (folder, server) = (tempfile::tempdir().expect("a folder"), serve(lie, files()));
        let hub = hub(&folder, &server);
        let error = hub.model("org/name", "main").expect_err("refused").to_string();
        assert!(error.contains(said), "{lie:?}: {error}");
        assert!(!error.contains("secret"), "{error}");
        let weights =
            folder.path().join("home/hub/models--org--name/snapshots").join(COMMIT).join("model.safetensors");
        assert!(!weights.exists(), "{lie:?}");
        assert_eq!(outside(folder.path(), &folder.path().join("home")), Vec::<PathBuf>::new(), "{lie:?}");
    }
    let (folder, server) = (tempfile::tempdir().expect("a folder"), serve(Lie::Names, files()));
    hub(&folder, &server).model("org/name", "main").expect("a model");
    assert_eq!(outside(folder.path(), &folder.path().join("home")), Vec::<PathBuf>::new());
    let asked = server.seen.lock().expect("a log").clone();
    assert!(!asked.iter().any(|path| path.contains("out")), "{asked:?}");
    let error = hub(&folder, &server)
        .file(Kind::Dataset, "org/name", "main", "../../x")
        .expect_err("refused")
        .to_string();
    assert!(error.contains("leads out"), "{error}");
}

#[test]
fn the_token_goes_to_the_hub_alone() {
    let (folder, server) = (tempfile::tempdir().expect("a folder"), serve(Lie::Elsewhere, files()));
    hub(&folder, &server).model("org/name", "main").expect("a model");
    let seen = server.seen.lock().expect("a log").clone();
    assert!(seen.iter().any(|path| path.starts_with("/cdn/")), "{seen:?}");
    for path in seen {
        assert_eq!(path.ends_with(" with token"), !path.starts_with("/cdn/"), "{path}");
    }
}
