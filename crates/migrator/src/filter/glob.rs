//! Patterns as rclone has them ("Filtering, includes and excludes", rclone.org/filtering).
//!
//! | pattern | matches |
//! |---|---|
//! | `*` | any characters but `/` |
//! | `**` | any characters |
//! | `?` | one character but `/` |
//! | `[a-z]`, `[^a-z]` | one character of them, or one that is none of them and no `/` |
//! | `{a,b*}` | either; they nest |
//! | `{{...}}` | a regular expression |
//! | `\x` | the character itself |
//! | `/` in front | only from the top; without it, from any `/` on |
//! | `/` at the end | everything beneath: as `/**`; to rclone, such an include takes nothing |

use regex::Regex;

/// A pattern.
#[derive(Clone, Debug)]
pub struct Glob(Regex);

impl Glob {
    /// Understands a pattern.
    ///
    /// # Errors
    /// What is wrong with it, in words.
    pub fn parse(pattern: &str) -> Result<Self, String> {
        if pattern.is_empty() {
            return Err("a pattern must not be empty".to_owned());
        }
        let whole = if pattern.ends_with('/') { format!("{pattern}**") } else { pattern.to_owned() };
        let expression = translate(&whole)?;
        // A name may hold a newline.
        Regex::new(&format!("(?s){expression}")).map(Self).map_err(|error| {
            let text = error.to_string();
            text.lines().last().unwrap_or("no regular expression").trim_start_matches("error: ").to_owned()
        })
    }

    /// Tells whether an id matches.
    pub fn matches(&self, id: &str) -> bool {
        self.0.is_match(id)
    }
}

fn translate(pattern: &str) -> Result<String, String> {
    let (rest, mut out) = match pattern.strip_prefix('/') {
        Some(rest) => (rest, r"\A(?:".to_owned()),
        None => (pattern, r"(?:\A|/)(?:".to_owned()),
    };
    let mut depth = 0;
    let mut chars = rest.chars().peekable();
    while let Some(char) = chars.next() {
        match char {
            '\\' => {
                let next = chars.next().ok_or("it ends with a backslash")?;
                push_literal(&mut out, next);
            }
            '*' => {
                let mut stars = 1;
                while chars.next_if_eq(&'*').is_some() {
                    stars += 1;
                }
                out.push_str(match stars {
                    1 => "[^/]*",
                    2 => ".*",
                    _ => return Err("more than two `*` mean nothing".to_owned()),
                });
            }
            '?' => out.push_str("[^/]"),
            '[' => class(&mut chars, &mut out)?,
            ']' => return Err("`]` without `[`".to_owned()),
            '{' if chars.next_if_eq(&'{').is_some() => {
                out.push_str("(?:");
                expression(&mut chars, &mut out)?;
                out.push(')');
            }
            '{' => {
                depth += 1;
                out.push_str("(?:");
            }
            '}' if depth == 0 => return Err("`}` without `{`".to_owned()),
            '}' => {
                depth -= 1;
                out.push(')');
            }
            ',' if depth > 0 => out.push('|'),
            other => push_literal(&mut out, other),
        }
    }
    if depth > 0 {
        return Err("`{` without `}`".to_owned());
    }
    out.push_str(r")\z");
    Ok(out)
}

type Chars<'p> = std::iter::Peekable<std::str::Chars<'p>>;

/// Copies a class up to its `]`. A negated one never matches a `/`.
fn class(chars: &mut Chars<'_>, out: &mut String) -> Result<(), String> {
    let negated = chars.next_if_eq(&'^').is_some();
    out.push_str(if negated { "[^/" } else { "[" });
    let mut depth = 1;
    let mut any = false;
    while let Some(char) = chars.next() {
        match char {
            '\\' => {
                let next = chars.next().ok_or("it ends with a backslash")?;
                push_literal(out, next);
            }
            // `[[:alpha:]]`
            '[' if chars.peek() == Some(&':') => {
                depth += 1;
                out.push('[');
            }
            ']' => {
                depth -= 1;
                if depth == 0 && !any {
                    return Err("`[]` matches nothing".to_owned());
                }
                out.push(']');
                if depth == 0 {
                    return Ok(());
                }
            }
            // Operators of the regular expressions that a class is translated to.
            '[' | '&' | '~' => push_literal(out, char),
            other => out.push(other),
        }
        any = true;
    }
    Err("`[` without `]`".to_owned())
}

/// Copies a regular expression up to the last `}` of its `}}`.
fn expression(chars: &mut Chars<'_>, out: &mut String) -> Result<(), String> {
    let mut inner = String::new();
    while let Some(char) = chars.next() {
        if char == '}' && chars.next_if_eq(&'}').is_some() {
            // `{{a{2}}}`: the closing is the last two.
            while chars.next_if_eq(&'}').is_some() {
                inner.push('}');
            }
            out.push_str(&inner);
            return Ok(());
        }
        inner.push(char);
    }
    Err("`{{` without `}}`".to_owned())
}

fn push_literal(out: &mut String, char: char) {
    out.push_str(&regex::escape(char.encode_utf8(&mut [0; 4])));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matched<'i>(pattern: &str, ids: &[&'i str]) -> Vec<&'i str> {
        let glob = Glob::parse(pattern).unwrap();
        ids.iter().copied().filter(|id| glob.matches(id)).collect()
    }

    #[test]
    fn patterns_mean_what_rclone_says() {
        let ids = ["a.jpg", "b.JPG", "d/a.jpg", "d/e/a.jpg", "d/e/b.txt", "dd/x", "e", "x/e", "a\nb.jpg"];
        for (pattern, expected) in [
            ("*.jpg", &["a.jpg", "d/a.jpg", "d/e/a.jpg", "a\nb.jpg"][..]),
            ("/*.jpg", &["a.jpg", "a\nb.jpg"]),
            ("a.jpg", &["a.jpg", "d/a.jpg", "d/e/a.jpg"]),
            ("/d/*", &["d/a.jpg"]),
            ("/d/**", &["d/a.jpg", "d/e/a.jpg", "d/e/b.txt"]),
            ("d/", &["d/a.jpg", "d/e/a.jpg", "d/e/b.txt"]),
            ("e/", &["d/e/a.jpg", "d/e/b.txt"]),
            ("e", &["e", "x/e"]),
            ("e/a.jpg", &["d/e/a.jpg"]),
            ("?.jpg", &["a.jpg", "d/a.jpg", "d/e/a.jpg"]),
            ("d?e", &[]),
            ("d**g", &["d/a.jpg", "d/e/a.jpg"]),
            ("*.{jpg,JPG}", &["a.jpg", "b.JPG", "d/a.jpg", "d/e/a.jpg", "a\nb.jpg"]),
            ("{a,{b,c}}.*", &["a.jpg", "b.JPG", "d/a.jpg", "d/e/a.jpg", "d/e/b.txt"]),
            ("[bc].*", &["b.JPG", "d/e/b.txt"]),
            ("[^b].jpg", &["a.jpg", "d/a.jpg", "d/e/a.jpg"]),
            ("d[^a]e**", &[]),
            ("{{d+}}/x", &["dd/x"]),
            ("{{d{2}}}/x", &["dd/x"]),
            ("**", &ids),
        ] {
            assert_eq!(matched(pattern, &ids), expected, "{pattern}");
        }
        assert_eq!(matched(r"a\*b", &["a*b", "axb"]), ["a*b"]);
        assert_eq!(matched("a.b+(c)|$^#-~&", &["a.b+(c)|$^#-~&"]), ["a.b+(c)|$^#-~&"]);
        assert_eq!(matched("[[:digit:]&&]", &["1", "&", "a"]), ["1", "&"]);
    }

    #[test]
    fn what_means_nothing_is_refused() {
        for pattern in ["", "***", "a]", "a[b", "a{b", "a}b", "a{{b", "{{(}}", "[z-a]", "a\\", "[]"] {
            assert!(Glob::parse(pattern).is_err(), "{pattern}");
        }
    }
}
