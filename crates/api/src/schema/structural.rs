//! Custom resources: an OpenAPI v3 structural schema (`openAPIV3Schema` of a CRD version) becomes the same arena.
