//! The wire format of `openapi.v3.Document`, for the walk of `gnostic.rs`: what generic clients ask for that would rather not parse
//! JSON. Nearly everything may be a reference there.

use super::gnostic::Shape::{
    Any, Count, Default, Each, Flag, Named, Number, One, OrFlag, OrReference, Text, Wrap,
};
use super::gnostic::{Message, document};
use crate::Value;

/// The document in protobuf; what the tables do not name is left out.
pub(super) fn encode(value: &Value) -> Vec<u8> {
    document(&DOCUMENT, value)
}

static DOCUMENT: Message = Message {
    fields: &[
        ("openapi", 1, Text),
        ("info", 2, One(&INFO)),
        ("paths", 4, Named(1, &One(&PATH))),
        ("components", 5, One(&COMPONENTS)),
        ("security", 6, Each(&Named(1, &Wrap(1, &Each(&Text))))),
    ],
    extensions: 9,
};

static INFO: Message =
    Message { fields: &[("title", 1, Text), ("description", 2, Text), ("version", 6, Text)], extensions: 7 };

static COMPONENTS: Message = Message {
    fields: &[
        ("schemas", 1, Named(1, &OrReference(&SCHEMA))),
        ("securitySchemes", 7, Named(1, &OrReference(&SECURITY_SCHEME))),
    ],
    extensions: 10,
};

static SECURITY_SCHEME: Message = Message {
    fields: &[("type", 1, Text), ("description", 2, Text), ("name", 3, Text), ("in", 4, Text)],
    extensions: 9,
};

static PATH: Message = Message {
    fields: &[
        ("summary", 2, Text),
        ("description", 3, Text),
        ("get", 4, One(&OPERATION)),
        ("put", 5, One(&OPERATION)),
        ("post", 6, One(&OPERATION)),
        ("delete", 7, One(&OPERATION)),
        ("options", 8, One(&OPERATION)),
        ("head", 9, One(&OPERATION)),
        ("patch", 10, One(&OPERATION)),
        ("parameters", 13, Each(&OrReference(&PARAMETER))),
    ],
    extensions: 14,
};

static OPERATION: Message = Message {
    fields: &[
        ("tags", 1, Each(&Text)),
        ("summary", 2, Text),
        ("description", 3, Text),
        ("operationId", 5, Text),
        ("parameters", 6, Each(&OrReference(&PARAMETER))),
        ("requestBody", 7, OrReference(&REQUEST_BODY)),
        ("responses", 8, Named(2, &OrReference(&RESPONSE))),
        ("deprecated", 10, Flag),
    ],
    extensions: 13,
};

static PARAMETER: Message = Message {
    fields: &[
        ("name", 1, Text),
        ("in", 2, Text),
        ("description", 3, Text),
        ("required", 4, Flag),
        ("deprecated", 5, Flag),
        ("schema", 10, OrReference(&SCHEMA)),
    ],
    extensions: 14,
};

static REQUEST_BODY: Message = Message {
    fields: &[("description", 1, Text), ("content", 2, Named(1, &One(&MEDIA_TYPE))), ("required", 3, Flag)],
    extensions: 4,
};

static RESPONSE: Message = Message {
    fields: &[("description", 1, Text), ("content", 3, Named(1, &One(&MEDIA_TYPE)))],
    extensions: 5,
};

static MEDIA_TYPE: Message = Message { fields: &[("schema", 1, OrReference(&SCHEMA))], extensions: 5 };

static SCHEMA: Message = Message {
    fields: &[
        ("nullable", 1, Flag),
        ("readOnly", 3, Flag),
        ("writeOnly", 4, Flag),
        ("example", 7, Any),
        ("deprecated", 8, Flag),
        ("title", 9, Text),
        ("multipleOf", 10, Number),
        ("maximum", 11, Number),
        ("exclusiveMaximum", 12, Flag),
        ("minimum", 13, Number),
        ("exclusiveMinimum", 14, Flag),
        ("maxLength", 15, Count),
        ("minLength", 16, Count),
        ("pattern", 17, Text),
        ("maxItems", 18, Count),
        ("minItems", 19, Count),
        ("uniqueItems", 20, Flag),
        ("maxProperties", 21, Count),
        ("minProperties", 22, Count),
        ("required", 23, Each(&Text)),
        ("enum", 24, Each(&Any)),
        ("type", 25, Text),
        ("allOf", 26, Each(&OrReference(&SCHEMA))),
        ("oneOf", 27, Each(&OrReference(&SCHEMA))),
        ("anyOf", 28, Each(&OrReference(&SCHEMA))),
        ("not", 29, One(&SCHEMA)),
        ("items", 30, Wrap(1, &OrReference(&SCHEMA))),
        ("properties", 31, Named(1, &OrReference(&SCHEMA))),
        ("additionalProperties", 32, OrFlag(&OrReference(&SCHEMA))),
        ("default", 33, Default),
        ("description", 34, Text),
        ("format", 35, Text),
    ],
    extensions: 36,
};

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kinds::testing::tree;

    #[test]
    fn small_documents() {
        let schemas = |schemas: &str| encode(&tree(&format!("{{components: {{schemas: {schemas}}}}}")));
        assert_eq!(encode(&tree("{openapi: '3.0.0'}")), b"\x0a\x053.0.0");
        // components { schemas { entry { "D", schema-or-reference { … } } } }
        assert_eq!(
            schemas("{D: {type: string}}"),
            b"\x2a\x14\x0a\x12\x0a\x10\x0a\x01D\x12\x0b\x0a\x09\xca\x01\x06string"
        );
        assert_eq!(
            schemas("{D: {$ref: '#/E'}}"),
            b"\x2a\x10\x0a\x0e\x0a\x0c\x0a\x01D\x12\x07\x12\x05\x0a\x03#/E"
        );
        assert_eq!(
            schemas("{D: {default: 1}}"),
            b"\x2a\x17\x0a\x15\x0a\x13\x0a\x01D\x12\x0e\x0a\x0c\x8a\x02\x09\x09\x00\x00\x00\x00\x00\x00\xf0\x3f"
        );
        assert_eq!(
            schemas("{D: {additionalProperties: true}}"),
            b"\x2a\x10\x0a\x0e\x0a\x0c\x0a\x01D\x12\x07\x0a\x05\x82\x02\x02\x10\x01"
        );
    }
}
