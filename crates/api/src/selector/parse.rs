//! The text of a label selector: tokens, then requirements, with upstream's error messages.

use super::{Operator, Requirement, SelectorError};
use crate::field::Quoted;
use crate::{Str, rules};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Token {
    Error,
    End,
    Close,
    Comma,
    Not,
    Word,
    Open,
    Operator(Operator),
}

/// Do words that are operators count as such here, or are they just words?
#[derive(Clone, Copy, PartialEq, Eq)]
enum Context {
    Operator,
    Value,
}

type Parsed<T> = Result<T, SelectorError>;

fn error<T>(message: String) -> Parsed<T> {
    Err(SelectorError(message))
}

pub(super) fn requirements(text: &str) -> Parsed<Vec<Requirement>> {
    let mut parser = Parser { tokens: scan(text), at: 0 };
    let mut requirements = Vec::new();
    loop {
        let (token, literal) = parser.peek(Context::Value);
        match token {
            Token::Word | Token::Not => {}
            Token::End => return Ok(requirements),
            _ => return error(format!("found '{literal}', expected: !, identifier, or 'end of string'")),
        }
        let requirement = parser.requirement();
        requirements
            .push(requirement.map_err(|e| SelectorError(format!("unable to parse requirement: {e}")))?);
        let (token, literal) = parser.take(Context::Value);
        match token {
            Token::End => return Ok(requirements),
            Token::Comma => {
                let (next, literal) = parser.peek(Context::Value);
                if !matches!(next, Token::Word | Token::Not) {
                    return error(format!("found '{literal}', expected: identifier after ','"));
                }
            }
            _ => return error(format!("found '{literal}', expected: ',' or 'end of string'")),
        }
    }
}

/// The tokens of a text; the last one is always [`Token::End`].
fn scan(text: &str) -> Vec<(Token, String)> {
    let mut tokens = Vec::new();
    let mut rest = text;
    loop {
        rest = rest.trim_start_matches([' ', '\t', '\r', '\n']);
        let Some(first) = rest.chars().next().filter(|c| *c != '\0') else {
            tokens.push((Token::End, String::new()));
            return tokens;
        };
        let (token, len) = if is_symbol(first) { symbol(rest) } else { word(rest) };
        let literal = match token {
            Token::Error => format!("error expected: keyword found '{}'", &rest[..len]),
            _ => rest[..len].to_owned(),
        };
        tokens.push((token, literal));
        rest = &rest[len..];
    }
}

fn is_symbol(c: char) -> bool {
    matches!(c, '=' | '!' | '(' | ')' | ',' | '>' | '<')
}

/// The longest symbol at the start, and its length.
fn symbol(rest: &str) -> (Token, usize) {
    let token = |text: &str| {
        Some(match text {
            ")" => Token::Close,
            "(" => Token::Open,
            "," => Token::Comma,
            "!" => Token::Not,
            "==" => Token::Operator(Operator::DoubleEquals),
            "=" => Token::Operator(Operator::Equals),
            ">" => Token::Operator(Operator::GreaterThan),
            "<" => Token::Operator(Operator::LessThan),
            "!=" => Token::Operator(Operator::NotEquals),
            _ => return None,
        })
    };
    let two = rest.get(..2).and_then(token).map(|t| (t, 2));
    two.or_else(|| token(&rest[..1]).map(|t| (t, 1))).unwrap_or((Token::Error, 1))
}

fn word(rest: &str) -> (Token, usize) {
    let ends = |c: char| is_symbol(c) || matches!(c, ' ' | '\t' | '\r' | '\n' | '\0');
    let len = rest.find(ends).unwrap_or(rest.len());
    let token = match &rest[..len] {
        "in" => Token::Operator(Operator::In),
        "notin" => Token::Operator(Operator::NotIn),
        _ => Token::Word,
    };
    (token, len)
}

struct Parser {
    tokens: Vec<(Token, String)>,
    at: usize,
}

impl Parser {
    fn peek(&self, context: Context) -> (Token, String) {
        let (token, literal) = self.tokens[self.at.min(self.tokens.len() - 1)].clone();
        let named = matches!(token, Token::Operator(Operator::In | Operator::NotIn));
        (if named && context == Context::Value { Token::Word } else { token }, literal)
    }

    fn take(&mut self, context: Context) -> (Token, String) {
        let taken = self.peek(context);
        self.at += 1;
        taken
    }

    fn requirement(&mut self) -> Parsed<Requirement> {
        let (mut token, mut key) = self.take(Context::Value);
        let negated = token == Token::Not;
        if negated {
            (token, key) = self.take(Context::Value);
        }
        if token != Token::Word {
            return error(format!("found '{key}', expected: identifier"));
        }
        let broken = rules::qualified_name(&key);
        if !broken.is_empty() {
            // Upstream has no path at hand here and prints it as it is.
            return error(format!("<nil>: Invalid value: {}: {}", key.quoted(), broken.join("; ")));
        }
        let key = Str::from(key);
        if negated {
            return Requirement::new(key, Operator::DoesNotExist, Vec::new());
        }
        if matches!(self.peek(Context::Value).0, Token::End | Token::Comma) {
            return Requirement::new(key, Operator::Exists, Vec::new());
        }
        let operator = self.operator()?;
        let mut values = match operator {
            Operator::In | Operator::NotIn => self.values()?,
            _ => vec![self.exact_value()?],
        };
        values.sort_unstable();
        values.dedup();
        Requirement::new(key, operator, values)
    }

    fn operator(&mut self) -> Parsed<Operator> {
        match self.take(Context::Operator) {
            (Token::Operator(operator), _) => Ok(operator),
            (_, literal) => error(format!("found '{literal}', expected: in, notin, =, ==, !=, gt, lt")),
        }
    }

    /// `(a,b)`; `()` is the empty value.
    fn values(&mut self) -> Parsed<Vec<Str>> {
        let (token, literal) = self.take(Context::Value);
        if token != Token::Open {
            return error(format!("found '{literal}' expected: '('"));
        }
        let (token, literal) = self.peek(Context::Value);
        match token {
            Token::Word | Token::Comma => {
                let values = self.identifiers()?;
                match self.take(Context::Value).0 {
                    Token::Close => Ok(values),
                    _ => error(format!("found '{literal}', expected: ')'")),
                }
            }
            Token::Close => {
                self.at += 1;
                Ok(vec![Str::default()])
            }
            _ => error(format!("found '{literal}', expected: ',', ')' or identifier")),
        }
    }

    /// Words between commas; nothing between two commas is the empty value.
    fn identifiers(&mut self) -> Parsed<Vec<Str>> {
        let mut values = Vec::new();
        loop {
            let (token, literal) = self.take(Context::Value);
            let (next, next_literal) = self.peek(Context::Value);
            match token {
                Token::Word => {
                    values.push(Str::from(literal));
                    match next {
                        Token::Comma => {}
                        Token::Close => return Ok(values),
                        _ => return error(format!("found '{next_literal}', expected: ',' or ')'")),
                    }
                }
                Token::Comma => {
                    if values.is_empty() || matches!(next, Token::Close | Token::Comma) {
                        values.push(Str::default());
                    }
                    if next == Token::Close {
                        return Ok(values);
                    }
                }
                _ => return error(format!("found '{literal}', expected: ',', or identifier")),
            }
        }
    }

    fn exact_value(&mut self) -> Parsed<Str> {
        if matches!(self.peek(Context::Value).0, Token::End | Token::Comma) {
            return Ok(Str::default());
        }
        match self.take(Context::Value) {
            (Token::Word, literal) => Ok(Str::from(literal)),
            (_, literal) => error(format!("found '{literal}', expected: identifier")),
        }
    }
}
