"""The backend of a chat. It knows who is who and who may read what; ringhold carries the messages.

A browser logs in here and gets a cookie. ringhold asks here who comes with that cookie, and who may enter a room. Messages
are posted here, so that they can be checked and stored, and are published with ringhold's server API.
"""

import hmac
import os
import secrets
import time
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated

import httpx
import jwt
from fastapi import Cookie, Depends, FastAPI, Header, HTTPException, Request, Response
from fastapi.responses import FileResponse
from pydantic import BaseModel, Field

RINGHOLD = os.environ.get("RINGHOLD_URL", "http://127.0.0.1:8000")
API_KEY = os.environ["RINGHOLD_HTTP_API_KEY"]
TOKEN_SECRET = os.environ["RINGHOLD_CLIENT_TOKEN_HMAC_SECRET_KEY"]
HOOK_KEY = os.environ["RINGHOLD_VAR_HOOK_KEY"]

# Signs cookies. Another secret than that of tokens: a cookie is no token.
COOKIE_SECRET = secrets.token_hex(32)

# Who may enter; None: everybody.
ROOMS = {"lobby": None, "staff": {"ann", "ben"}}


@asynccontextmanager
async def lifespan(app: FastAPI):
    async with httpx.AsyncClient(base_url=RINGHOLD, headers={"X-API-Key": API_KEY}, timeout=5) as client:
        app.state.ringhold = client
        yield


app = FastAPI(lifespan=lifespan)


def signed(user: str, secret: str, seconds: int) -> str:
    return jwt.encode({"sub": user, "exp": int(time.time()) + seconds}, secret, algorithm="HS256")


def user_of(session: str) -> str | None:
    try:
        return jwt.decode(session, COOKIE_SECRET, algorithms=["HS256"])["sub"]
    except jwt.InvalidTokenError:
        return None


def logged_in(session: Annotated[str, Cookie()] = "") -> str:
    if user := user_of(session):
        return user
    raise HTTPException(401, "log in first")


def may_enter(user: str, room: str) -> bool:
    return room in ROOMS and (ROOMS[room] is None or user in ROOMS[room])


User = Annotated[str, Depends(logged_in)]


# --- For browsers and other clients -------------------------------------------------------------------------------------


class Login(BaseModel):
    name: str = Field(pattern="^[a-z]{1,20}$")


class Message(BaseModel):
    text: str = Field(min_length=1, max_length=1000)


@app.get("/")
async def page():
    return FileResponse(Path(__file__).with_name("index.html"))


@app.post("/login", status_code=204)
async def login(login: Login, response: Response):
    """An example has no passwords: whoever says a name has it."""
    response.set_cookie("session", signed(login.name, COOKIE_SECRET, 86400), httponly=True, samesite="lax")


@app.get("/me")
async def me(user: User, request: Request):
    rooms = [room for room in ROOMS if may_enter(user, room)]
    # The host that the page came from: the cookie belongs to it.
    websocket = f"ws://{request.url.hostname}:{httpx.URL(RINGHOLD).port}/connection/websocket"
    return {"name": user, "rooms": rooms, "websocket": websocket}


@app.get("/token")
async def token(user: User):
    """For clients without cookies, such as apps: a token of ten minutes for `getToken` of an SDK."""
    return {"token": signed(user, TOKEN_SECRET, 600)}


@app.post("/rooms/{room}/messages", status_code=204)
async def say(room: str, message: Message, user: User):
    if not may_enter(user, room):
        raise HTTPException(403, "not your room")
    # Here an application stores the message.
    publication = {"channel": f"room:{room}", "data": {"from": user, "text": message.text}}
    try:
        answer = await app.state.ringhold.post("/api/publish", json=publication)
        # The server API answers mistakes with status 200 and an error, too.
        published = answer.status_code == 200 and "result" in answer.json()
    except httpx.HTTPError:
        published = False
    if not published:
        raise HTTPException(502, "the message was not published")


# --- For ringhold -------------------------------------------------------------------------------------------------------


def from_ringhold(x_hook_key: Annotated[str, Header()] = ""):
    if not hmac.compare_digest(x_hook_key.encode(), HOOK_KEY.encode()):
        raise HTTPException(403, "this is for ringhold only")


class Subscribe(BaseModel):
    user: str
    channel: str


@app.post("/hooks/connect", dependencies=[Depends(from_ringhold)])
async def connect(session: Annotated[str, Cookie()] = ""):
    if user := user_of(session):
        return {"result": {"user": user}}
    # The codes 4500 to 4999 tell an SDK not to come back by itself.
    return {"disconnect": {"code": 4501, "reason": "log in first"}}


@app.post("/hooks/subscribe", dependencies=[Depends(from_ringhold)])
async def subscribe(question: Subscribe):
    if may_enter(question.user, question.channel.removeprefix("room:")):
        return {"result": {}}
    return {"error": {"code": 403, "message": "not your room"}}
