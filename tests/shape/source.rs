//! Reads Rust source as far as the shape of the crate is concerned: tokens with their lines, without
//! comments, literals and tests, and the paths that they name.

use std::collections::BTreeSet;

/// A source file, taken apart.
#[derive(Debug)]
pub(crate) struct Source {
    /// Where it is, from the root of the repository on, with `/`.
    pub(crate) file: String,
    /// The module that it is, `["store", "sled"]` for `src/store/sled.rs`.
    module: Vec<String>,
    tokens: Vec<Token>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Token {
    text: String,
    line: usize,
}

/// A path that a file names: from the crate's root on, or from another crate's.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Named {
    pub(crate) line: usize,
    pub(crate) path: Vec<String>,
}

impl Source {
    /// Takes a file apart.
    pub(crate) fn parse(file: &str, text: &str) -> Self {
        let module = file.strip_prefix("src/").unwrap_or(file);
        let module = module.strip_suffix(".rs").unwrap_or(module);
        let module = match module {
            "lib" => Vec::new(),
            other => other.split('/').map(str::to_owned).collect(),
        };
        Self {
            file: file.to_owned(),
            module,
            tokens: without_tests(tokens(text)),
        }
    }

    /// The top-level module that the file belongs to; empty for `lib.rs`.
    pub(crate) fn room(&self) -> &str {
        self.module.first().map_or("", String::as_str)
    }

    /// Every path of at least two words that the code names, `use` trees spread out.
    pub(crate) fn paths(&self) -> Vec<Named> {
        let declared = self.declared_modules();
        let mut named = Vec::new();
        let mut at = 0;
        while at < self.tokens.len() {
            if self.text(at) == "use" {
                at = self.use_tree(at + 1, &[], &mut named);
            } else if is_word(self.text(at)) && !self.follows_a_path(at) {
                let (path, next) = self.path(at);
                if path.len() > 1 {
                    let line = self.tokens[at].line;
                    named.push(Named { line, path });
                }
                at = next;
            } else {
                at += 1;
            }
        }
        for name in &mut named {
            self.resolve(&mut name.path, &declared);
        }
        named
    }

    /// The lines where these tokens stand one after the other.
    pub(crate) fn lines_with(&self, wanted: &[&str]) -> Vec<usize> {
        let runs = self.tokens.windows(wanted.len());
        runs.filter(|run| run.iter().map(|token| &token.text).eq(wanted))
            .map(|run| run[0].line)
            .collect()
    }

    fn text(&self, at: usize) -> &str {
        self.tokens.get(at).map_or("", |token| &token.text)
    }

    fn is_separator(&self, at: usize) -> bool {
        self.text(at) == ":" && self.text(at + 1) == ":"
    }

    /// Whether the word ends a path that began before it, such as one with generic arguments.
    fn follows_a_path(&self, at: usize) -> bool {
        at > 2 && self.is_separator(at - 2) && matches!(self.text(at - 3), ">")
    }

    /// The words from `at` on that `::` joins, and where they end.
    fn path(&self, at: usize) -> (Vec<String>, usize) {
        let mut path = vec![self.text(at).to_owned()];
        let mut next = at + 1;
        while self.is_separator(next) && is_word(self.text(next + 2)) {
            path.push(self.text(next + 2).to_owned());
            next += 3;
        }
        (path, next)
    }

    /// Reads one branch of a `use` tree and returns where it ends.
    fn use_tree(&self, mut at: usize, above: &[String], named: &mut Vec<Named>) -> usize {
        if self.is_separator(at) {
            at += 2;
        }
        let line = self.tokens.get(at).map_or(0, |token| token.line);
        let mut path = above.to_vec();
        while is_word(self.text(at)) || self.text(at) == "*" {
            if self.text(at) != "self" || path.is_empty() {
                path.push(self.text(at).to_owned());
            }
            at += 1;
            if self.text(at) == "as" {
                at += 2;
            }
            if !self.is_separator(at) {
                named.push(Named { line, path });
                return at;
            }
            at += 2;
        }
        // A brace: branches, apart by commas.
        at += 1;
        while !matches!(self.text(at), "}" | "") {
            at = self.use_tree(at, &path, named);
            if self.text(at) == "," {
                at += 1;
            }
        }
        at + 1
    }

    fn declared_modules(&self) -> BTreeSet<String> {
        let pairs = self.tokens.windows(2);
        pairs
            .filter(|pair| pair[0].text == "mod")
            .map(|pair| pair[1].text.clone())
            .collect()
    }

    /// Makes a path begin with `crate` if it is one of ours.
    fn resolve(&self, path: &mut Vec<String>, declared: &BTreeSet<String>) {
        let own = |depth: usize| self.module[..self.module.len().saturating_sub(depth)].to_vec();
        let supers = path.iter().take_while(|word| *word == "super").count();
        let (dropped, start) = match path[0].as_str() {
            "crate" | "kodo_broker" => (1, Vec::new()),
            "self" => (1, own(0)),
            "super" => (supers, own(supers)),
            name if declared.contains(name) => (0, own(0)),
            _ => return,
        };
        let rest = path.split_off(dropped);
        *path = ["crate".to_owned()]
            .into_iter()
            .chain(start)
            .chain(rest)
            .collect();
    }
}

fn is_word(text: &str) -> bool {
    text.starts_with(|c: char| c.is_alphabetic() || c == '_')
}

/// Splits a text into words and single signs. Comments and the content of literals are left out.
fn tokens(text: &str) -> Vec<Token> {
    let chars: Vec<char> = text.chars().collect();
    let (mut tokens, mut at, mut line) = (Vec::new(), 0, 1);
    while at < chars.len() {
        let rest = &chars[at..];
        let length = match rest {
            ['/', '/', ..] => rest.iter().take_while(|c| **c != '\n').count(),
            ['/', '*', ..] => block_comment(rest),
            ['"', ..] | ['b' | 'c', '"', ..] => quoted(rest),
            ['r', '"' | '#', ..] | ['b' | 'c', 'r', '"' | '#', ..] if is_raw(rest) => raw(rest),
            ['\'', ..] | ['b', '\'', ..] if is_character(rest) => character(rest),
            [c, ..] if c.is_alphanumeric() || *c == '_' => {
                let word = rest
                    .iter()
                    .take_while(|c| c.is_alphanumeric() || **c == '_');
                let text: String = word.collect();
                let length = text.chars().count();
                tokens.push(Token { text, line });
                length
            }
            [c, ..] => {
                if !c.is_whitespace() {
                    let text = c.to_string();
                    tokens.push(Token { text, line });
                }
                1
            }
            [] => 1,
        };
        let length = length.max(1).min(rest.len());
        line += rest[..length].iter().filter(|c| **c == '\n').count();
        at += length;
    }
    tokens
}

fn block_comment(rest: &[char]) -> usize {
    let (mut depth, mut at) = (0, 0);
    while at + 1 < rest.len() {
        match (rest[at], rest[at + 1]) {
            ('/', '*') => (depth, at) = (depth + 1, at + 2),
            ('*', '/') => (depth, at) = (depth - 1, at + 2),
            _ => at += 1,
        }
        if depth == 0 {
            return at;
        }
    }
    rest.len()
}

fn quoted(rest: &[char]) -> usize {
    let mut at = 1 + usize::from(rest[0] != '"');
    while at < rest.len() && rest[at] != '"' {
        at += 1 + usize::from(rest[at] == '\\');
    }
    at + 1
}

/// Where the signs `#` of a raw string begin, and how many there are.
fn raw_start(rest: &[char]) -> (usize, usize) {
    let start = rest.iter().position(|c| *c == 'r').unwrap_or(0) + 1;
    let signs = rest[start..].iter().take_while(|c| **c == '#').count();
    (start, signs)
}

/// `r#"…"#`, but not the raw word `r#type`.
fn is_raw(rest: &[char]) -> bool {
    let (start, signs) = raw_start(rest);
    rest.get(start + signs) == Some(&'"')
}

fn raw(rest: &[char]) -> usize {
    let (start, signs) = raw_start(rest);
    let mut at = start + signs + 1;
    while at < rest.len() {
        let closed = rest[at] == '"'
            && rest[at + 1..]
                .iter()
                .take(signs)
                .filter(|c| **c == '#')
                .count()
                == signs;
        at += 1;
        if closed {
            return at + signs;
        }
    }
    at
}

/// A character and no lifetime.
fn is_character(rest: &[char]) -> bool {
    let at = 1 + usize::from(rest[0] == 'b');
    rest.get(at) == Some(&'\\') || rest.get(at + 1) == Some(&'\'')
}

fn character(rest: &[char]) -> usize {
    let mut at = 1 + usize::from(rest[0] == 'b');
    while at < rest.len() && rest[at] != '\'' {
        at += 1 + usize::from(rest[at] == '\\');
    }
    at + 1
}

/// Leaves out every item that is there for tests only.
fn without_tests(tokens: Vec<Token>) -> Vec<Token> {
    const MARK: [&str; 7] = ["#", "[", "cfg", "(", "test", ")", "]"];
    let text = |at: usize| {
        tokens
            .get(at)
            .map_or("", |token: &Token| token.text.as_str())
    };
    let (mut kept, mut at) = (Vec::new(), 0);
    while at < tokens.len() {
        let marked = (0..MARK.len()).all(|offset| text(at + offset) == MARK[offset]);
        if !marked {
            kept.push(tokens[at].clone());
            at += 1;
            continue;
        }
        at += MARK.len();
        while text(at) == "#" {
            at = after_group(&tokens, at + 1);
        }
        // To the end of the item: a semicolon, or the brace that closes it.
        let is_use = (at..at + 4).any(|near| text(near) == "use");
        while at < tokens.len() {
            match text(at) {
                ";" => {
                    at += 1;
                    break;
                }
                "{" => {
                    at = after_group(&tokens, at);
                    if !is_use {
                        break;
                    }
                }
                _ => at += 1,
            }
        }
    }
    kept
}

/// Behind the bracket that closes the one at `at`.
fn after_group(tokens: &[Token], mut at: usize) -> usize {
    let mut depth = 0_usize;
    while at < tokens.len() {
        match tokens[at].text.as_str() {
            "{" | "(" | "[" => depth += 1,
            "}" | ")" | "]" => depth = depth.saturating_sub(1),
            _ => {}
        }
        at += 1;
        if depth == 0 {
            break;
        }
    }
    at
}

#[cfg(test)]
mod tests {
    use super::*;

    fn paths(file: &str, text: &str) -> Vec<String> {
        let named = Source::parse(file, text).paths();
        named.into_iter().map(|name| name.path.join("::")).collect()
    }

    #[test]
    fn use_trees_are_spread_out() {
        let text = "use crate::{a::{self, b as c}, d::*};\nuse std::io;";
        assert_eq!(
            paths("src/x.rs", text),
            ["crate::a", "crate::a::b", "crate::d::*", "std::io"]
        );
    }

    #[test]
    fn paths_are_resolved_from_where_they_stand() {
        let text = "mod z; fn f() { super::q::g(); self::h::i(); z::k(); super::super::l::m(); }";
        assert_eq!(
            paths("src/x/y.rs", text),
            [
                "crate::x::q::g",
                "crate::x::y::h::i",
                "crate::x::y::z::k",
                "crate::l::m"
            ]
        );
        assert_eq!(
            paths("src/x.rs", "fn f() { super::q::g() }"),
            ["crate::q::g"]
        );
        assert_eq!(
            paths("src/main.rs", "use kodo_broker::app;"),
            ["crate::app"]
        );
    }

    #[test]
    fn comments_literals_and_tests_name_nothing() {
        let text = r####"
            // a::b
            /* c::d /* e::f */ g::h */
            const A: &str = "i::j \" k::l";
            const B: &str = r##"m::n "# o::p"##;
            const C: char = '"'; const D: u8 = b'\''; fn life<'a>(x: &'a str) {}
            #[cfg(test)] mod tests { fn f() { q::r() } }
            #[cfg(test)] use s::{t, u};
            #[cfg(test)] mod v;
            fn g() { w::x() }
        "####;
        assert_eq!(paths("src/x.rs", text), ["w::x"]);
    }

    #[test]
    fn lines_are_those_of_the_file() {
        let text = "//! Doc.\n\nconst A: &str = \"\n\n\";\nfn f() { a::b() }\n";
        let named = Source::parse("src/x.rs", text).paths();
        assert_eq!(named[0].line, 6);
        let source = Source::parse("src/x.rs", "fn f() {\n x\n.unwrap() }");
        assert_eq!(source.lines_with(&[".", "unwrap", "("]), [3]);
    }
}
