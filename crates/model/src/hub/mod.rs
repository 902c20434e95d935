//! Models and data sets of the Hugging Face hub, in the cache that Python's libraries share.
//!
//! The variables of `huggingface_hub` are honoured: `HF_HUB_CACHE`, `HF_HOME`, `HF_ENDPOINT`, `HF_TOKEN` and
//! what stands in for them. With
//! `HF_HUB_OFFLINE` set, only the cache is read.

mod cache;
mod download;
#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::config::read_json;
use crate::error::Error;
use crate::weights::{is_file_name, shard_names};
use cache::{Cache, Repository};
use download::{Listing, Remote};

/// What a repository holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A model.
    Model,
    /// A data set.
    Dataset,
}

/// A file of a repository: the path of its copy in the cache, downloading it when it is not there.
pub fn file(kind: Kind, repo: &str, revision: &str, path: &str) -> Result<PathBuf, Error> {
    Hub::from_env().file(kind, repo, revision, path)
}

/// The copy of a file in the cache, if there is one. Nothing is downloaded.
pub fn cached(kind: Kind, repo: &str, revision: &str, path: &str) -> Option<PathBuf> {
    Hub::from_env().cached(kind, repo, revision, path)
}

/// The directory of a model or an adapter in the cache, if all that it needs is there. Nothing is downloaded.
pub fn cached_model(repo: &str, revision: &str) -> Option<PathBuf> {
    let repository = Hub::from_env().cache.repository(Kind::Model, repo);
    let snapshot = repository.snapshot(revision)?;
    Missing::of(&repository, &snapshot).needed.is_empty().then_some(snapshot)
}

/// The directory of a model or an adapter: settings, weights and tokenizer, downloading what is not there.
/// The second part says
/// what could not be asked for, a sentence each.
pub fn model(repo: &str, revision: &str) -> Result<(PathBuf, Vec<String>), Error> {
    Hub::from_env().model(repo, revision)
}

/// Whether the environment forbids to ask the hub.
pub fn is_offline() -> bool {
    Hub::from_env().offline
}

/// A hub with its cache, as the environment names them.
struct Hub {
    cache: Cache,
    endpoint: String,
    token: Option<String>,
    offline: bool,
}

impl Hub {
    fn from_env() -> Self {
        let variable = |name: &str| std::env::var(name).ok().filter(|value| !value.trim().is_empty());
        let cache = Cache::from_env();
        let token =
            variable("HF_TOKEN").or_else(|| variable("HUGGING_FACE_HUB_TOKEN")).or_else(|| cache.token());
        let endpoint = variable("HF_ENDPOINT").unwrap_or_else(|| ENDPOINT.to_owned());
        let offline =
            variable("HF_HUB_OFFLINE").or_else(|| variable("TRANSFORMERS_OFFLINE")).unwrap_or_default();
        let offline = !matches!(offline.to_lowercase().as_str(), "" | "0" | "false" | "off" | "no");
        Self { cache, endpoint: endpoint.trim_end_matches('/').to_owned(), token, offline }
    }

    fn remote(&self, kind: Kind, repo: &str) -> Remote {
        Remote::new(&self.endpoint, self.token.clone(), kind, repo, self.cache.repository(kind, repo))
    }

    fn cached(&self, kind: Kind, repo: &str, revision: &str, path: &str) -> Option<PathBuf> {
        let snapshot = self.cache.repository(kind, repo).snapshot(revision)?;
        Some(snapshot.join(path)).filter(|path| path.is_file())
    }

    fn file(&self, kind: Kind, repo: &str, revision: &str, path: &str) -> Result<PathBuf, Error> {
        if let Some(found) = self.cached(kind, repo, revision, path) {
            return Ok(found);
        }
        if self.offline {
            return Err(refuse(repo, OFFLINE));
        }
        self.remote(kind, repo).file(revision, None, path).map_err(|message| refuse(repo, &message))
    }

    fn model(&self, repo: &str, revision: &str) -> Result<(PathBuf, Vec<String>), Error> {
        let repository = self.cache.repository(Kind::Model, repo);
        let here = repository.snapshot(revision);
        let missing = here.as_ref().map(|snapshot| Missing::of(&repository, snapshot));
        if let (Some(snapshot), Some(missing)) = (&here, &missing)
            && missing.needed.is_empty()
            && missing.unknown.is_empty()
        {
            return Ok((snapshot.clone(), Vec::new()));
        }
        let asked = if self.offline {
            Err(OFFLINE.to_owned())
        } else {
            let remote = self.remote(Kind::Model, repo);
            remote.listing(revision).and_then(|listing| complete(&remote, &repository, revision, &listing))
        };
        match (asked, here, missing) {
            (Ok(snapshot), ..) => Ok((snapshot, Vec::new())),
            // What a model cannot do without is there; whether there is more is not known.
            (Err(reason), Some(snapshot), Some(missing)) if missing.needed.is_empty() => {
                let reason = if self.offline { "HF_HUB_OFFLINE is set" } else { &reason };
                let note = format!(
                    "hf://{repo}: the cache has no {}, and whether the model has could not be asked ({reason}): going on without",
                    missing.unknown.join(", ")
                );
                Ok((snapshot, vec![note]))
            }
            (Err(reason), _, missing) => {
                let needed =
                    missing.map(|missing| missing.needed.join(", ")).filter(|needed| !needed.is_empty());
                let part = needed.map(|needed| format!("the cache lacks {needed}: ")).unwrap_or_default();
                Err(refuse(repo, &format!("{part}{reason}")))
            }
        }
    }
}

/// The public hub.
const ENDPOINT: &str = "https://huggingface.co";

const OFFLINE: &str = "it is not in the cache, and HF_HUB_OFFLINE forbids to download it";

/// What a snapshot, which another program may have filled in part, does not have.
#[derive(Debug, Default, PartialEq, Eq)]
struct Missing {
    /// Files without which there is no model.
    needed: Vec<String>,
    /// Files that decide about a model where it has them, and of which nothing says that it has not.
    unknown: Vec<String>,
}

impl Missing {
    fn of(repository: &Repository, snapshot: &Path) -> Self {
        let has = |name: &str| snapshot.join(name).is_file();
        let mut missing = Self::default();
        if has("adapter_config.json") {
            missing.needed.extend(
                ["adapter_model.safetensors"].map(str::to_owned).into_iter().filter(|name| !has(name)),
            );
            return missing;
        }
        missing.needed.extend(
            ["config.json", "tokenizer.json"].map(str::to_owned).into_iter().filter(|name| !has(name)),
        );
        if !has("model.safetensors") {
            let index = read_json(&snapshot.join("model.safetensors.index.json")).ok();
            match index.as_ref().and_then(shard_names) {
                Some(mut shards) => {
                    shards.sort();
                    shards.dedup();
                    missing
                        .needed
                        .extend(shards.into_iter().filter(|name| !is_file_name(name) || !has(name)));
                }
                None => missing.needed.push("model.safetensors".into()),
            }
        }
        let tokenizer = read_json(&snapshot.join("tokenizer_config.json")).ok();
        let template =
            tokenizer.as_ref().and_then(|map| map.get("chat_template")).is_some_and(|t| *t != Value::Null);
        let unknown = |name: &str| !has(name) && !repository.lacks(snapshot, name);
        let mut deciding = vec!["generation_config.json", "tokenizer_config.json"];
        if !template {
            deciding.push("chat_template.jinja");
        }
        missing.unknown.extend(deciding.into_iter().filter(|name| unknown(name)).map(str::to_owned));
        missing
    }
}

/// Downloads what of a listed model is not there; the snapshot.
fn complete(
    remote: &Remote,
    repository: &Repository,
    revision: &str,
    listing: &Listing,
) -> Result<PathBuf, String> {
    let commit = listing.sha.as_str();
    let names: Vec<&str> = listing.names().filter(|name| is_file_name(name)).collect();
    let fetch = |name: &str| {
        let pointer = repository.pointer(commit, name);
        if pointer.is_file() { Ok(pointer) } else { remote.file(commit, Some(commit), name) }
    };
    let text = |name: &&&str| {
        [".json", ".jinja"].iter().any(|end| name.ends_with(end))
            || ["merges.txt", "tokenizer.model"].contains(*name)
    };
    for name in names.iter().filter(text) {
        fetch(name)?;
    }
    let has = |name: &str| names.contains(&name);
    if has("model.safetensors") {
        fetch("model.safetensors")?;
    } else if has("model.safetensors.index.json") {
        let index = read_json(&fetch("model.safetensors.index.json")?).map_err(|error| error.to_string())?;
        let mut shards = shard_names(&index).ok_or("model.safetensors.index.json has no weight_map")?;
        shards.sort();
        shards.dedup();
        for shard in shards {
            if !is_file_name(&shard) {
                return Err(format!("model.safetensors.index.json names {shard:?}, which is no file name"));
            }
            fetch(&shard)?;
        }
    }
    if has("adapter_model.safetensors") {
        fetch("adapter_model.safetensors")?;
    }
    let adapter = has("adapter_config.json");
    if !adapter && !has("config.json") {
        return Err(
            "it has neither config.json nor adapter_config.json: is it a model in Hugging Face's format?"
                .into(),
        );
    }
    for name in ["generation_config.json", "tokenizer_config.json", "chat_template.jinja"] {
        if !has(name) {
            repository.remember_absent(commit, name);
        }
    }
    repository.remember(revision, commit).map_err(|error| error.to_string())?;
    let config = if adapter { "adapter_config.json" } else { "config.json" };
    let pointer = repository.pointer(commit, config);
    Ok(pointer.parent().map(Path::to_path_buf).unwrap_or_default())
}

fn refuse(repo: &str, what: &str) -> Error {
    let message =
        format!("{what}\n  hint: check the name and the network, or give a local directory instead");
    Error::Hub { repo: repo.into(), message }
}
