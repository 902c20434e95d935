//! Downloads from the hub. What a server says decides about no path before it is checked, and bytes are taken
//! once their checksum is
//! the announced one.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use indicatif::ProgressBar;
use serde::Deserialize;
use sha2::{Digest, Sha256};
use ureq::http::{Response, Uri};
use ureq::{Agent, Body};

use super::Kind;
use super::cache::{Repository, is_commit, is_hex, is_inside};

/// How often a request is sent elsewhere.
const MOST_REDIRECTS: usize = 8;

/// The largest list of files.
const MOST_LISTED: u64 = 64 << 20;

/// What a repository holds.
#[derive(Debug, Deserialize)]
pub(super) struct Listing {
    /// Its commit.
    pub(super) sha: String,
    siblings: Vec<Sibling>,
}

#[derive(Debug, Deserialize)]
struct Sibling {
    rfilename: String,
}

impl Listing {
    /// The files, without those whose names lead out of the repository.
    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.siblings.iter().map(|sibling| sibling.rfilename.as_str()).filter(|name| is_inside(name))
    }
}

/// A repository on the hub.
pub(super) struct Remote {
    agent: Agent,
    endpoint: String,
    token: Option<String>,
    kind: Kind,
    repo: String,
    repository: Repository,
}

/// What a server announces about a file.
#[derive(Debug, Default)]
struct Announced {
    commit: Option<String>,
    etag: Option<String>,
    size: Option<u64>,
}

impl Remote {
    pub(super) fn new(
        endpoint: &str,
        token: Option<String>,
        kind: Kind,
        repo: &str,
        repository: Repository,
    ) -> Self {
        let config = Agent::config_builder()
            .max_redirects(0)
            .max_redirects_will_error(false)
            .http_status_as_error(false)
            .timeout_connect(Some(Duration::from_secs(30)))
            .timeout_recv_response(Some(Duration::from_mins(1)))
            .build();
        Self { agent: config.into(), endpoint: endpoint.into(), token, kind, repo: repo.into(), repository }
    }

    /// What a revision holds.
    pub(super) fn listing(&self, revision: &str) -> Result<Listing, String> {
        let kind = match self.kind {
            Kind::Model => "models",
            Kind::Dataset => "datasets",
        };
        let url = format!("{}/api/{kind}/{}/revision/{}", self.endpoint, self.repo, escaped(revision));
        let (response, _) = self.get(&url, &mut |_| 0)?;
        let text = response.into_body().with_config().limit(MOST_LISTED).read_to_string();
        let listing: Listing = text.map_err(|error| error.to_string()).and_then(|text| {
            serde_json::from_str(&text).map_err(|error| format!("the list of its files: {error}"))
        })?;
        if !is_commit(&listing.sha) {
            return Err(format!("the hub gives the commit {:?}, which is none", listing.sha));
        }
        Ok(listing)
    }

    /// The copy of a file in the cache, downloaded. `commit` is that which the revision has to be, where it
    /// is known.
    pub(super) fn file(&self, revision: &str, commit: Option<&str>, path: &str) -> Result<PathBuf, String> {
        if !is_inside(path) {
            return Err(format!("{path:?} leads out of the repository"));
        }
        let kind = match self.kind {
            Kind::Model => "",
            Kind::Dataset => "datasets/",
        };
        let url = format!(
            "{}/{kind}{}/resolve/{}/{}",
            self.endpoint,
            self.repo,
            escaped(revision),
            escaped_path(path)
        );
        let blobs = self.repository.blobs();
        let mut held = 0;
        let (response, announced) = self.get(&url, &mut |announced| {
            let part = announced.etag.as_ref().map(|etag| blobs.join(format!("{etag}.incomplete")));
            let here = part.and_then(|part| Some(std::fs::metadata(part).ok()?.len())).unwrap_or(0);
            held = if announced.size.is_some_and(|size| here < size) { here } else { 0 };
            held
        })?;
        let missing = |what: &str| format!("{path}: the hub gives no {what}");
        let found = announced.commit.clone().ok_or_else(|| missing("commit (x-repo-commit)"))?;
        if let Some(commit) = commit.filter(|commit| *commit != found) {
            return Err(format!("{path}: the hub gives the commit {found}, and {commit} was asked for"));
        }
        let etag = announced.etag.clone().ok_or_else(|| missing("checksum (etag)"))?;
        let blob = blobs.join(&etag);
        if !blob.is_file() {
            fs_err::create_dir_all(&blobs).map_err(|error| error.to_string())?;
            Self::body(response, &announced, (&blob, held), path)?;
        }
        let pointer = self.repository.pointer(&found, path);
        link(&blob, &pointer, path).map_err(|error| error.to_string())?;
        self.repository.remember(revision, &found).map_err(|error| error.to_string())?;
        Ok(pointer)
    }

    /// Asks for `url` and goes where it is sent, with what the answers on the way announce. `resume` gives
    /// the bytes that are here,
    /// once it is known of what. The token goes to the hub alone.
    fn get(
        &self,
        url: &str,
        resume: &mut dyn FnMut(&Announced) -> u64,
    ) -> Result<(Response<Body>, Announced), String> {
        let mut url = url.to_owned();
        let mut announced = Announced::default();
        for _ in 0..=MOST_REDIRECTS {
            let mut request =
                self.agent.get(&url).header("User-Agent", concat!("plumb/", env!("CARGO_PKG_VERSION")));
            if let Some(token) = self.token.as_ref().filter(|_| origin(&url) == origin(&self.endpoint)) {
                request = request.header("Authorization", format!("Bearer {token}"));
            }
            let from = resume(&announced);
            if from > 0 {
                request = request.header("Range", format!("bytes={from}-"));
            }
            let response = request.call().map_err(|error| error.to_string())?;
            announced.read(&response)?;
            let status = response.status().as_u16();
            if (300..400).contains(&status) {
                let location = header(&response, "location").ok_or("a redirection to nowhere")?;
                url = absolute(&url, &location)?;
                continue;
            }
            return match status {
                200 | 206 => Ok((response, announced)),
                401 | 403 => Err(format!(
                    "status {status}: it is private or gated; set HF_TOKEN to a token that may read it"
                )),
                404 => {
                    Err("status 404: the hub has no such repository, revision or file, or it is private"
                        .into())
                }
                _ => Err(format!("status {status}")),
            };
        }
        Err(format!("more than {MOST_REDIRECTS} redirections"))
    }

    /// Writes the bytes of an answer beside `blob`, checks them, and puts them there.
    fn body(
        response: Response<Body>,
        announced: &Announced,
        (blob, held): (&Path, u64),
        path: &str,
    ) -> Result<(), String> {
        let io = |error: std::io::Error| format!("{path}: {error}");
        let part = blob
            .with_file_name(format!("{}.incomplete", blob.file_name().unwrap_or_default().to_string_lossy()));
        let mut options = File::options();
        let mut file = options.read(true).write(true).create(true).truncate(false).open(&part).map_err(io)?;
        // Another program that downloads the same file is waited for.
        file.lock().map_err(io)?;
        if blob.is_file() {
            return Ok(());
        }
        let resumed = response.status().as_u16() == 206 && held > 0;
        let mut sum = Sha256::new();
        let mut written = 0;
        if resumed {
            written = std::io::copy(&mut (&mut file).take(held), &mut sum).map_err(io)?;
        }
        file.set_len(written).map_err(io)?;
        file.seek(SeekFrom::Start(written)).map_err(io)?;
        let length = header(&response, "content-length").and_then(|length| length.parse::<u64>().ok());
        let size = announced.size.or(length.map(|length| length + written));
        let bar = size.map_or_else(ProgressBar::hidden, ProgressBar::new);
        bar.set_position(written);
        bar.set_message(path.to_owned());
        let mut reader = response.into_body().into_reader();
        let mut buffer = vec![0; 1 << 16];
        loop {
            let count = reader.read(&mut buffer).map_err(io)?;
            if count == 0 {
                break;
            }
            file.write_all(&buffer[..count]).map_err(io)?;
            sum.update(&buffer[..count]);
            written += count as u64;
            bar.set_position(written);
        }
        bar.finish_and_clear();
        file.sync_all().map_err(io)?;
        if let Some(size) = size.filter(|size| *size != written) {
            return Err(format!(
                "{path}: {written} of {size} bytes came; the same command goes on from there"
            ));
        }
        let etag = blob.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let sum = hexadecimal(&sum.finalize());
        // The checksum of what the hub stores as large files; of others it is that of git.
        if etag.len() == 64 && sum != etag {
            let _ = fs_err::remove_file(&part);
            return Err(format!(
                "{path}: its bytes are not those that the hub announces (sha256 {sum} and not {etag}): a damaged download, or a server that changes files"
            ));
        }
        fs_err::rename(&part, blob).map_err(|error| error.to_string())
    }
}

impl Announced {
    /// Takes what an answer says, the first that does. Paths are made of it, and so it has to be hexadecimal.
    fn read(&mut self, response: &Response<Body>) -> Result<(), String> {
        if self.commit.is_none() {
            self.commit = header(response, "x-repo-commit");
        }
        let redirection = response.status().is_redirection();
        if self.etag.is_none() {
            let plain = || header(response, "etag").filter(|_| !redirection);
            let etag = header(response, "x-linked-etag").or_else(plain);
            self.etag = etag.map(|etag| etag.trim_start_matches("W/").trim_matches('"').to_owned());
        }
        if self.size.is_none() {
            self.size = header(response, "x-linked-size").and_then(|size| size.parse().ok());
        }
        if let Some(commit) = self.commit.as_ref().filter(|commit| !is_commit(commit)) {
            return Err(format!("the hub gives the commit {commit:?}, which is none"));
        }
        match self.etag.as_ref().filter(|etag| !is_hex(etag) || etag.len() > 128) {
            Some(etag) => Err(format!("the hub gives the checksum {etag:?}, which is none")),
            None => Ok(()),
        }
    }
}

fn header(response: &Response<Body>, name: &str) -> Option<String> {
    Some(response.headers().get(name)?.to_str().ok()?.to_owned())
}

/// Bytes as hexadecimal digits.
pub(super) fn hexadecimal(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// Scheme and host of a URL, port included.
fn origin(url: &str) -> Option<(String, String)> {
    let uri: Uri = url.parse().ok()?;
    Some((uri.scheme_str()?.to_owned(), uri.authority()?.as_str().to_owned()))
}

/// Where a redirection from `url` leads.
fn absolute(url: &str, location: &str) -> Result<String, String> {
    if location.contains("://") {
        return Ok(location.to_owned());
    }
    let (scheme, host) = origin(url).ok_or_else(|| format!("{url} is no URL"))?;
    if !location.starts_with('/') || location.starts_with("//") {
        return Err(format!("a redirection to {location:?}"));
    }
    Ok(format!("{scheme}://{host}{location}"))
}

/// A revision as a part of a URL.
fn escaped(revision: &str) -> String {
    escaped_path(revision).replace('/', "%2F")
}

/// A path as parts of a URL.
fn escaped_path(path: &str) -> String {
    let plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"-_.~/".contains(byte);
    path.bytes()
        .map(|byte| if plain(&byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") })
        .collect()
}

/// Points the file of a commit to its bytes, as the cache of Python does: by a relative link, or where there
/// are none, by a copy.
fn link(blob: &Path, pointer: &Path, path: &str) -> std::io::Result<()> {
    if pointer.is_file() {
        return Ok(());
    }
    if let Some(folder) = pointer.parent() {
        fs_err::create_dir_all(folder)?;
    }
    // A link that leads nowhere is left from a cache that was cleaned up.
    if pointer.is_symlink() {
        fs_err::remove_file(pointer)?;
    }
    #[cfg(unix)]
    {
        let up = "../".repeat(path.matches('/').count() + 2);
        let target = format!("{up}blobs/{}", blob.file_name().unwrap_or_default().to_string_lossy());
        if std::os::unix::fs::symlink(target, pointer).is_ok() {
            return Ok(());
        }
    }
    let _ = path;
    fs_err::copy(blob, pointer).map(|_| ())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn redirections_and_names_make_urls() {
        let at = |location: &str| absolute("https://hub.org:8000/a/b?c", location);
        assert_eq!(at("/x/y").as_deref(), Ok("https://hub.org:8000/x/y"));
        assert_eq!(at("http://other/z").as_deref(), Ok("http://other/z"));
        assert!(at("x").is_err() && at("//evil/x").is_err());
        assert_ne!(origin("https://hub.org:8000/a"), origin("https://hub.org/a"));
        assert_eq!(origin("http://h/a"), origin("http://h/b/c"));
        assert_eq!(
            (escaped("refs/pr/3").as_str(), escaped_path("a b/c#").as_str()),
            ("refs%2Fpr%2F3", "a%20b/c%23")
        );
    }
}
