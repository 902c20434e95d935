//! The cache that Python's `huggingface_hub` keeps, by its rules: where it is, and which snapshot a revision
//! means.

use std::ffi::OsString;
use std::path::{Component, Path, PathBuf};

use super::Kind;

/// The folder of the cache.
#[derive(Debug, Clone)]
pub(super) struct Cache {
    root: PathBuf,
    /// Where the token of a login lies.
    token: PathBuf,
}

/// The cache's folder of one repository.
#[derive(Debug, Clone)]
pub(super) struct Repository {
    folder: PathBuf,
}

impl Cache {
    /// That of the environment: `HF_HUB_CACHE`, `HUGGINGFACE_HUB_CACHE`, `hub` of `HF_HOME`, of `huggingface`
    /// in `XDG_CACHE_HOME`,
    /// and of `~/.cache/huggingface`, whichever is set first.
    pub(super) fn from_env() -> Self {
        Self::of(&|name| std::env::var_os(name), std::env::home_dir())
    }

    /// That of a folder.
    #[cfg(test)]
    pub(super) fn at(root: PathBuf) -> Self {
        Self { token: root.join("token"), root }
    }

    fn of(variable: &dyn Fn(&str) -> Option<OsString>, home: Option<PathBuf>) -> Self {
        let set = |name: &str| {
            let path = PathBuf::from(variable(name).filter(|value| !value.is_empty())?);
            match (path.strip_prefix("~"), &home) {
                (Ok(rest), Some(home)) => Some(home.join(rest)),
                _ => Some(path),
            }
        };
        let caches =
            || set("XDG_CACHE_HOME").or_else(|| Some(home.clone()?.join(".cache"))).unwrap_or_default();
        let hugging_face = set("HF_HOME").unwrap_or_else(|| caches().join("huggingface"));
        let root = set("HF_HUB_CACHE").or_else(|| set("HUGGINGFACE_HUB_CACHE"));
        Self {
            root: root.unwrap_or_else(|| hugging_face.join("hub")),
            token: set("HF_TOKEN_PATH").unwrap_or_else(|| hugging_face.join("token")),
        }
    }

    /// The token of a login, where there is one.
    pub(super) fn token(&self) -> Option<String> {
        let text = fs_err::read_to_string(&self.token).ok()?;
        Some(text.trim().to_owned()).filter(|token| !token.is_empty())
    }

    pub(super) fn repository(&self, kind: Kind, repo: &str) -> Repository {
        let kind = match kind {
            Kind::Model => "models",
            Kind::Dataset => "datasets",
        };
        Repository { folder: self.root.join(format!("{kind}--{}", repo.replace('/', "--"))) }
    }
}

impl Repository {
    /// The folder of the files of a revision: a branch or tag that was asked for before, a commit, or the
    /// beginning of one.
    pub(super) fn snapshot(&self, revision: &str) -> Option<PathBuf> {
        if !is_inside(revision) {
            return None;
        }
        let named = fs_err::read_to_string(self.folder.join("refs").join(revision)).ok();
        let commit = match named.map(|text| text.trim().to_owned()).filter(|commit| is_commit(commit)) {
            Some(commit) => commit,
            None if is_commit(revision) => revision.to_owned(),
            None => self.beginning(revision)?,
        };
        Some(self.folder.join("snapshots").join(commit)).filter(|folder| folder.is_dir())
    }

    /// The one commit that begins so.
    fn beginning(&self, revision: &str) -> Option<String> {
        if revision.len() < 7 || !is_hex(revision) {
            return None;
        }
        let entries = fs_err::read_dir(self.folder.join("snapshots")).ok()?;
        let names = entries.flatten().filter_map(|entry| entry.file_name().into_string().ok());
        let mut found = names.filter(|name| is_commit(name) && name.starts_with(revision));
        let first = found.next()?;
        found.next().is_none().then_some(first)
    }

    /// Whether a revision is known not to have a file.
    pub(super) fn lacks(&self, snapshot: &Path, name: &str) -> bool {
        let commit = snapshot.file_name().unwrap_or_default();
        self.folder.join(".no_exist").join(commit).join(name).is_file()
    }

    /// Remembers that a commit has no file of this name. Where that cannot be written, it is asked for again.
    pub(super) fn remember_absent(&self, commit: &str, name: &str) {
        let folder = self.folder.join(".no_exist").join(commit);
        let _ = fs_err::create_dir_all(&folder).and_then(|()| fs_err::write(folder.join(name), ""));
    }

    /// Remembers what a branch or tag means.
    pub(super) fn remember(&self, revision: &str, commit: &str) -> std::io::Result<()> {
        if revision == commit || !is_inside(revision) {
            return Ok(());
        }
        let path = self.folder.join("refs").join(revision);
        fs_err::create_dir_all(path.parent().unwrap_or(&self.folder))?;
        fs_err::write(path, commit)
    }

    /// Where the bytes of a file lie.
    pub(super) fn blobs(&self) -> PathBuf {
        self.folder.join("blobs")
    }

    /// Where a file of a commit lies.
    pub(super) fn pointer(&self, commit: &str, path: &str) -> PathBuf {
        self.folder.join("snapshots").join(commit).join(path)
    }
}

/// Whether a text is a whole commit.
pub(super) fn is_commit(text: &str) -> bool {
    text.len() == 40 && is_hex(text)
}

/// Whether a text is a hexadecimal number, as commits and checksums are.
pub(super) fn is_hex(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

/// Whether a relative path stays below the folder that it is of.
pub(super) fn is_inside(path: &str) -> bool {
    let plain = Path::new(path).components().all(|part| matches!(part, Component::Normal(_)));
    plain && !path.is_empty() && !path.contains(['\\', '\0', ':'])
}

#[cfg(test)]
mod tests {
    use super::*;

    const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

    fn cache(variables: &[(&str, &str)]) -> PathBuf {
        let get =
            |name: &str| variables.iter().find(|(known, _)| *known == name).map(|(_, value)| value.into());
        Cache::of(&get, Some("/home/me".into())).root
    }

    #[test]
    fn the_cache_is_where_huggingface_hub_has_it() {
        let place = |variables: &[(&str, &str)]| cache(variables).display().to_string();
        assert_eq!(place(&[]), "/home/me/.cache/huggingface/hub");
        assert_eq!(place(&[("XDG_CACHE_HOME", "/x")]), "/x/huggingface/hub");
        assert_eq!(place(&[("XDG_CACHE_HOME", "/x"), ("HF_HOME", "/h")]), "/h/hub");
        assert_eq!(place(&[("HF_HOME", "~/h")]), "/home/me/h/hub");
        assert_eq!(place(&[("HF_HOME", "/h"), ("HUGGINGFACE_HUB_CACHE", "/old")]), "/old");
        assert_eq!(place(&[("HUGGINGFACE_HUB_CACHE", "/old"), ("HF_HUB_CACHE", "/new")]), "/new");
        assert_eq!(place(&[("HF_HUB_CACHE", ""), ("HF_HOME", "/h")]), "/h/hub");
    }

    #[test]
    fn a_revision_is_a_name_a_commit_or_the_beginning_of_one() {
        let folder = tempfile::tempdir().expect("a folder");
        let repository = Cache::at(folder.path().to_path_buf()).repository(Kind::Model, "org/name");
        let snapshots = folder.path().join("models--org--name/snapshots");
        let snapshot = snapshots.join(COMMIT);
        fs_err::create_dir_all(&snapshot).expect("a folder");
        assert_eq!(repository.snapshot("main"), None, "nothing says what main is");
        for revision in [COMMIT, &COMMIT[..7], &COMMIT[..12]] {
            assert_eq!(repository.snapshot(revision).as_deref(), Some(snapshot.as_path()), "{revision}");
        }
        repository.remember("refs/pr/3", COMMIT).expect("written");
        repository.remember("main", COMMIT).expect("written");
        assert_eq!(repository.snapshot("refs/pr/3"), Some(snapshot.clone()));
        assert_eq!(repository.snapshot("main"), Some(snapshot.clone()));
        for revision in ["0123", "fedcba9", "../../elsewhere", "/etc", ""] {
            assert_eq!(repository.snapshot(revision), None, "{revision}");
        }
        // The beginning of two commits means neither.
        fs_err::create_dir_all(snapshots.join(format!("{}{}", &COMMIT[..20], "9".repeat(20))))
            .expect("a folder");
        assert_eq!(repository.snapshot(&COMMIT[..12]), None);
        fs_err::write(folder.path().join("models--org--name/refs/main"), "../../../etc").expect("written");
        assert_eq!(repository.snapshot("main"), None);
    }
}
