"""The hosted service's uploads: a picture or video as base64 in, a link out."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException

from promptreel.api.base_url import links
from promptreel.api.bodies import FieldsWithInit
from promptreel.api.dependencies import OpenServicesOfApp, ServicesOfApp
from promptreel.api.field_reader import FieldReader, label
from promptreel.api.init_fields import read_file
from promptreel.api.legacy import listings_openapi as openapi
from promptreel.api.legacy.answers import tell_expiry
from promptreel.api.uploads import MAX_MEGABYTES, MEDIA_TYPES, read_upload, store_upload
from promptreel.encoding.decoder import Decoder
from promptreel.errors import InitUnusable, InvalidParams
from promptreel.media import Init, InitKind

UPLOADED = "image uploaded"


def add_routes(router: APIRouter) -> None:
    def post(path: str, handler: Any, properties: openapi.Properties, required: str) -> None:
        described = openapi.body(properties=properties, required=[required])
        router.add_api_route(path, handler, methods=["POST"], tags=["uploads"], openapi_extra=described)

    post("/api/v3/base64_crop", upload_cropped, openapi.CROP, "image")
    post("/api/v6/base64_to_url", upload_base64_string, openapi.BASE64_STRING, "base64_string")
    post("/api/v6/video/base64_to_url", upload_init_obj, openapi.INIT_OBJ, "init_obj")
    path, shape = "/uploads/{name}.{ending}", openapi.UPLOAD_ANSWERS
    router.add_api_route(path, send_upload, methods=["GET"], response_class=Response, responses=shape, tags=["uploads"])
    router.add_api_route(path, send_upload, methods=["HEAD"], include_in_schema=False)


def upload_cropped(request: Request, fields: FieldsWithInit, services: ServicesOfApp) -> JSONResponse:
    """Upload a picture. If `crop` is yes, it is cropped to the largest square around its center."""
    reader = FieldReader(fields)
    crop = reader.yes_no("crop", default=False)
    upload_id, path = store_upload(services, _read(reader, "image", ["image"], services.decoder, crop=crop))
    made = links(request, services)
    answer = {"status": "success", "message": UPLOADED, "messege": UPLOADED, "link": made.to(path), "request_id": upload_id}
    return JSONResponse(answer | tell_expiry(made))


def upload_base64_string(request: Request, fields: FieldsWithInit, services: ServicesOfApp) -> JSONResponse:
    """Upload a picture or video in `base64_string`."""
    return _upload(request, fields, services, "base64_string")


def upload_init_obj(request: Request, fields: FieldsWithInit, services: ServicesOfApp) -> JSONResponse:
    """Upload a picture or video in `init_obj`."""
    return _upload(request, fields, services, "init_obj")


def send_upload(request: Request, name: str, ending: str, services: OpenServicesOfApp) -> Response:
    """An uploaded file, as it was sent."""
    services.link_maker.check(request.url.path, request.query_params)
    data = read_upload(services.storage, name, ending)
    if data is None:
        raise HTTPException(404, "There is no such file.")
    return Response(data, media_type=MEDIA_TYPES[ending], headers={"Cache-Control": "private, max-age=3600"})


def _upload(request: Request, fields: FieldsWithInit, services: ServicesOfApp, name: str) -> JSONResponse:
    upload_id, path = store_upload(services, _read(FieldReader(fields), name, ["image", "video"], services.decoder))
    made = links(request, services)
    return JSONResponse({"status": "success", "id": upload_id, "output": [made.to(path)]} | tell_expiry(made))


def _read(reader: FieldReader, name: str, kinds: list[InitKind], decoder: Decoder, *, crop: bool = False) -> Init:
    """The file in a field, checked. Raises InvalidParams and DecoderBusy."""
    value = reader.given(name)
    if value is None:
        reader.reject(name, f"The {label(name)} field is required.")
    reader.raise_errors()
    try:
        init = read_file(name, value, kinds, most=MAX_MEGABYTES)
        if crop:
            return decoder.crop(init)
        decoder.check(init)
    except InitUnusable as error:
        raise InvalidParams({name: [error.message]}) from error
    return init
