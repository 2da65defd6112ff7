"""The reference: what the HTTP API takes and gives, as an OpenAPI document and as pages to read."""
