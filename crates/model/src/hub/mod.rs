//! Models and data sets of the Hugging Face hub, in the cache that Python's libraries share.
//!
//! `HF_HOME`, `HF_ENDPOINT` and `HF_TOKEN` are honoured; with `HF_HUB_OFFLINE` set, only the cache is read.

use std::path::PathBuf;

use hf_hub::api::sync::{ApiBuilder, ApiRepo};
use hf_hub::{Cache, Repo, RepoType};

use crate::error::Error;

/// A file of a repository: the path of its copy in the cache, downloading it when it is not there.
pub fn file(kind: Kind, repo: &str, revision: &str, path: &str) -> Result<PathBuf, Error> {
    match cached(kind, repo, revision, path) {
        Some(found) => Ok(found),
        None => {
            api(kind, repo, revision)?.get(path).map_err(|source| refuse(repo, &format!("{path}: {source}")))
        }
    }
}

/// The copy of a file in the cache, if there is one. Nothing is downloaded.
pub fn cached(kind: Kind, repo: &str, revision: &str, path: &str) -> Option<PathBuf> {
    Cache::from_env().repo(kind.repo(repo, revision)).get(path)
}

/// The directory of a model: `config.json`, weights and tokenizer, downloading what is not there.
pub fn model(repo: &str, revision: &str) -> Result<PathBuf, Error> {
    let config = file(Kind::Model, repo, revision, "config.json")?;
    let directory = config.parent().map(PathBuf::from).unwrap_or_default();
    // A snapshot that was downloaded before is complete.
    if cached(Kind::Model, repo, revision, "tokenizer.json").is_some()
        && (directory.join("model.safetensors").exists()
            || directory.join("model.safetensors.index.json").exists())
    {
        return Ok(directory);
    }
    let handle = api(Kind::Model, repo, revision)?;
    let listed = handle.info().map_err(|source| refuse(repo, &source.to_string()))?;
    let wanted = |name: &str| {
        !name.contains('/') && [".json", ".jinja", ".safetensors"].iter().any(|suffix| name.ends_with(suffix))
    };
    for sibling in listed.siblings.iter().filter(|sibling| wanted(&sibling.rfilename)) {
        let path = &sibling.rfilename;
        handle.get(path).map_err(|source| refuse(repo, &format!("{path}: {source}")))?;
    }
    Ok(directory)
}

/// What a repository holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A model.
    Model,
    /// A data set.
    Dataset,
}

impl Kind {
    fn repo(self, repo: &str, revision: &str) -> Repo {
        let kind = match self {
            Self::Model => RepoType::Model,
            Self::Dataset => RepoType::Dataset,
        };
        Repo::with_revision(repo.into(), kind, revision.into())
    }
}

fn api(kind: Kind, repo: &str, revision: &str) -> Result<ApiRepo, Error> {
    let offline =
        std::env::var("HF_HUB_OFFLINE").is_ok_and(|value| !matches!(value.as_str(), "" | "0" | "false"));
    if offline {
        let message = "it is not in the cache, and HF_HUB_OFFLINE forbids to download it";
        return Err(refuse(repo, message));
    }
    let mut builder = ApiBuilder::from_env();
    if let Ok(token) = std::env::var("HF_TOKEN") {
        builder = builder.with_token(Some(token));
    }
    let api = builder.build().map_err(|source| refuse(repo, &source.to_string()))?;
    Ok(api.repo(kind.repo(repo, revision)))
}

fn refuse(repo: &str, what: &str) -> Error {
    let message =
        format!("{what}\n  hint: check the name and the network, or give a local directory instead");
    Error::Hub { repo: repo.into(), message }
}
