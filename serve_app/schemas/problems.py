"""The problem document (RFC 9457) as a model, for OpenAPI; ``serve_app.problems`` writes it."""

from pydantic import BaseModel, Field


class FieldFault(BaseModel):
    """One fault of a body or query."""

    pointer: str = Field(description="JSON pointer into the body, or the query parameter's name")
    detail: str


class Problem(BaseModel):
    """RFC 9457. Branch on ``code``; ``instance`` is the request's id."""

    type: str
    title: str
    status: int
    detail: str
    code: str
    instance: str
    errors: list[FieldFault] = Field(default_factory=list)
