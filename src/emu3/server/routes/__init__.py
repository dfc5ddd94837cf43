"""The HTTP routes, one module per group of paths, each with a FastAPI `router`.

Every module has the routes first and then the functions that turn request bodies into engine
requests, and results into response bodies. Read `images` first.
"""
