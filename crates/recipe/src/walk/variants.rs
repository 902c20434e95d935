//! Alternatives: optional values, enums of names, and externally tagged tables such as `[method.NAME]`.

use serde_json::Value as Json;

use super::{Findings, Walker, is_type};
use crate::path::KeyPath;
use crate::place::Origin;
use crate::problem::ProblemKind;
use crate::schema::{expected, names, tagged, types};
use crate::suggest;
use crate::tree::{Node, Table, Value};

impl<'s> Walker<'s> {
    pub(super) fn alternatives(&mut self, flat: &[&'s Json], node: &Node, named: &Origin, path: &KeyPath) {
        let units: Vec<&str> = flat.iter().flat_map(|part| names(part)).collect();
        let tables: Vec<(&str, &'s Json)> = flat.iter().filter_map(|part| tagged(part)).collect();
        // A name that is a table as well, for those who want its settings, is listed once.
        let only_names = units.iter().copied().filter(|unit| !tables.iter().any(|(name, _)| name == unit));
        let all: Vec<&str> = tables.iter().map(|(name, _)| *name).chain(only_names).collect();
        match &node.value {
            Value::Table(table) if !tables.is_empty() => {
                return self.tagged_table(&all, &units, &tables, table, named, path);
            }
            Value::String(text) if !units.is_empty() || !tables.is_empty() => {
                let free = flat.iter().any(|part| types(part).contains(&"string") && names(part).is_empty());
                if free || units.contains(&text.as_str()) {
                    return;
                }
                if let Some((name, _)) = tables.iter().find(|(name, _)| name == text) {
                    let message = format!("`{path}`: `{name}` is a table, not a string");
                    let hint = Some(format!("write [{path}.{name}]"));
                    return self.report(&node.origin, path, ProblemKind::WrongType, message, hint);
                }
                return self.unknown_value(text, &all, node, path);
            }
            _ => {}
        }
        let fitting: Vec<&'s Json> = flat
            .iter()
            .copied()
            .filter(|part| {
                let wanted = types(part);
                wanted.is_empty() || wanted.iter().any(|name| is_type(node, name))
            })
            .collect();
        if fitting.is_empty() {
            let mut wanted: Vec<&str> = Vec::new();
            for name in flat.iter().flat_map(|part| types(part)) {
                if !wanted.contains(&name) {
                    wanted.push(name);
                }
            }
            return self.wrong_type(&expected(&wanted), node, path);
        }
        // The first alternative without problems, or else the one with the fewest: the one that was probably meant.
        let walk_one = |schema: &&'s Json| {
            let mut walker = Walker { document: self.document, top: self.top, found: Findings::default() };
            walker.node(schema, node, named, path);
            walker.found
        };
        if let Some(best) = fitting.iter().map(walk_one).min_by_key(|found| found.problems.len()) {
            self.found.problems.extend(best.problems);
            self.found.broken.extend(best.broken);
            self.found.meant.extend(best.meant);
            self.found.references.extend(best.references);
        }
    }

    /// A table that holds exactly one table, whose name is the variant's: one of `all`.
    fn tagged_table(
        &mut self,
        all: &[&str],
        units: &[&str],
        tables: &[(&str, &'s Json)],
        table: &Table,
        named: &Origin,
        path: &KeyPath,
    ) {
        let Some(first) = table.0.first() else {
            let message = format!("[{path}] is empty: it takes one table that names the variant");
            let hint = Some(format!("write [{path}.NAME] with one of: {}", all.join(", ")));
            return self.report(named, path, ProblemKind::Ambiguous, message, hint);
        };
        if let Some(second) = table.0.get(1) {
            let given: Vec<String> = table.0.iter().map(|entry| format!("`{}`", entry.key)).collect();
            let message = format!("[{path}] takes one table, found {}: {}", given.len(), given.join(", "));
            let hint = Some(format!("keep [{path}.{}] or [{path}.{}]", first.key, second.key));
            self.report(&second.origin, path, ProblemKind::Ambiguous, message, hint);
        }
        for entry in &table.0 {
            let here = path.key(&entry.key);
            if let Some((_, content)) = tables.iter().find(|(name, _)| *name == entry.key) {
                self.entry(content, entry, path);
            } else if units.contains(&entry.key.as_str()) {
                let empty = matches!(&entry.node.value, Value::Table(table) if table.0.is_empty());
                if !empty {
                    let message = format!("[{here}] takes no settings");
                    self.report(&entry.origin, &here, ProblemKind::UnknownKey, message, None);
                    self.found.broken.push(path.clone());
                }
            } else {
                let message = format!("unknown name `{}` {}", entry.key, self.section(path));
                let hint = suggest::hint(&entry.key, all, "one of");
                self.report(&entry.origin, &here, ProblemKind::UnknownName, message, hint);
                // Without its only entry the table would mean nothing.
                self.found.broken.push(path.clone());
            }
        }
    }
}
