"""The engine over HTTP, in the dialect of OpenAI's API."""
