"""Every refusal that a client can meet: its name, its status, and a sentence that helps, in English and French.

A refusal is an RFC 9457 problem whose `type` is `urn:aisle:problem:NAME`, for programs; the sentence is for people.
A member's value is (status, English, French); the braces are filled by whoever raises `Refusal`.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from typing import Literal

from starlette.exceptions import HTTPException

Language = Literal["en", "fr"]
LANGUAGES: tuple[Language, ...] = ("fr", "en")
"""The first is for whoever asks for neither."""


class Problem(Enum):
    """One kind of refusal."""

    def __init__(self, status: int, english: str, french: str) -> None:
        self.status = status
        self.english = english
        self.french = french

    @property
    def uri(self) -> str:
        return f"urn:aisle:problem:{self.name.lower().replace('_', '-')}"

    def detail(self, language: Language, details: Mapping[str, object]) -> str:
        return (self.french if language == "fr" else self.english).format_map(details)

    # Whose request it is
    NOT_SIGNED_IN = (
        401,
        "A valid bearer token is needed. POST /token gives one; send it as `Authorization: Bearer …`.",
        "Il faut un jeton valable. POST /token en donne un ; envoyez-le dans `Authorization: Bearer …`.",
    )
    WRONG_CREDENTIALS = (
        401,
        "Wrong name, password, key or token.",
        "Nom, mot de passe, clé ou jeton incorrect.",
    )
    NOT_ALLOWED = (
        403,
        "The role {role} may not do this; it takes {needed}.",
        "Le rôle {role} n'y est pas autorisé ; il faut {needed}.",
    )
    TOO_MANY_REQUESTS = (
        429,
        "Too many requests, try again in {seconds} s.",
        "Trop de requêtes, réessayez dans {seconds} s.",
    )
    # The request as a whole
    NOT_FOUND = (404, "There is nothing at this address.", "Il n'y a rien à cette adresse.")
    WRONG_METHOD = (405, "This address does not take this method.", "Cette adresse n'accepte pas cette méthode.")
    BAD_REQUEST = (400, "The request cannot be read: {reason}", "La requête est illisible : {reason}")
    UNUSABLE = (422, "{reason}", "{reason}")
    BODY_TOO_LARGE = (
        413,
        "The body has more than {limit}. Send a smaller image, or a table by its location or in several parts.",
        "Le corps dépasse {limit}. Envoyez une image plus petite, ou la table par son emplacement ou en plusieurs"
        " fois.",
    )
    BODY_TOO_SLOW = (
        408,
        "The body did not arrive within {seconds} s.",
        "Le corps n'est pas arrivé en {seconds} s.",
    )
    WRONG_CONTENT_TYPE = (
        415,
        "Send a form (multipart/form-data or application/x-www-form-urlencoded) or JSON (application/json).",
        "Envoyez un formulaire (multipart/form-data ou application/x-www-form-urlencoded) ou du JSON"
        " (application/json).",
    )
    BROKEN_FORM = (
        400,
        "The form cannot be read. Let your HTTP client build the multipart body and its boundary.",
        "Le formulaire est illisible. Laissez votre client HTTP composer le corps multipart et sa délimitation.",
    )
    BROKEN_JSON = (
        400,
        'The body is not a JSON object in UTF-8, such as {{"designation": "Livre ancien"}}.',
        'Le corps n\'est pas un objet JSON en UTF-8, tel que {{"designation": "Livre ancien"}}.',
    )
    FORM_NOT_OURS = (
        403,
        "This form is too old, or does not come from this console. Load the page again.",
        "Ce formulaire est trop ancien, ou ne vient pas de cette console. Rechargez la page.",
    )
    # Its fields
    FIELD_MISSING = (422, "The field {field} is missing.", "Le champ {field} manque.")
    FIELD_INVALID = (
        422,
        "The field {field} cannot be used: it has to be {needed}.",
        "Le champ {field} est inutilisable : il doit être {needed}.",
    )
    FIELD_TOO_LONG = (
        422,
        "The field {field} has more than {limit} characters.",
        "Le champ {field} dépasse {limit} caractères.",
    )
    TOO_MANY_FIELDS = (
        422,
        "The form has more than {limit} fields.",
        "Le formulaire a plus de {limit} champs.",
    )
    REPEATED_FIELD = (
        422,
        "The field {field} is there more than once; one request is one product.",
        "Le champ {field} est présent plusieurs fois ; une requête porte sur un seul produit.",
    )
    TOO_MANY_FILES = (
        422,
        "The form has more than one file; send one image, in the field `image`.",
        "Le formulaire a plus d'un fichier ; envoyez une seule image, dans le champ `image`.",
    )
    WRONG_FILE_FIELD = (
        422,
        "The file is in the field {field}; send it in the field `image`.",
        "Le fichier est dans le champ {field} ; envoyez-le dans le champ `image`.",
    )
    NOTHING_TO_CLASSIFY = (
        422,
        "There is nothing to classify: send a `designation`, a `description` or an `image`.",
        "Il n'y a rien à classer : envoyez une `designation`, une `description` ou une `image`.",
    )
    # Its image
    IMAGE_NOT_A_FILE = (
        422,
        "The field `image` of a form has to be a file; as text in base64 it goes into a JSON body.",
        "Le champ `image` d'un formulaire doit être un fichier ; en texte base64, il va dans un corps JSON.",
    )
    IMAGE_NOT_BASE64 = (
        422,
        "The field `image` of a JSON body has to be base64, without `data:` in front.",
        "Le champ `image` d'un corps JSON doit être en base64, sans `data:` devant.",
    )
    IMAGE_EMPTY = (422, "The image is empty.", "L'image est vide.")
    IMAGE_UNKNOWN_FORMAT = (
        415,
        "The image is not a JPEG, PNG or WebP file, whatever its name says.",
        "L'image n'est pas un fichier JPEG, PNG ou WebP, quoi que dise son nom.",
    )
    IMAGE_DAMAGED = (
        422,
        "The image is damaged or incomplete; send the original file again.",
        "L'image est endommagée ou incomplète ; renvoyez le fichier d'origine.",
    )
    IMAGE_TOO_LARGE = (
        422,
        "The image has too many pixels: at most 25 megapixels, and 8,000 pixels a side. Make it smaller.",
        "L'image a trop de pixels : 25 mégapixels et 8 000 pixels de côté au plus. Réduisez-la.",
    )
    IMAGE_ANIMATED = (
        422,
        "The image is animated; send a single picture.",
        "L'image est animée ; envoyez une image fixe.",
    )
    # What a feedback speaks of
    NO_SUCH_PREDICTION = (
        404,
        "There is no prediction {prediction_id}: the id is in the answer of /predict, and is kept for a while only.",
        "Il n'y a pas de prédiction {prediction_id} : l'identifiant est dans la réponse de /predict et n'est gardé"
        " qu'un temps.",
    )
    PREDICTION_ON_ITS_WAY = (
        503,
        "This prediction is not in the database yet, try again in a moment.",
        "Cette prédiction n'est pas encore dans la base de données, réessayez dans un instant.",
    )
    NO_SUCH_TYPE = (
        422,
        "There is no product type {type}; GET /model lists them.",
        "Il n'y a pas de type de produit {type} ; GET /model en donne la liste.",
    )
    NOT_YOUR_PREDICTION = (
        403,
        "This prediction was made for somebody else; a reviewer or an administrator may correct it.",
        "Cette prédiction a été faite pour quelqu'un d'autre ; un relecteur ou un administrateur peut la corriger.",
    )
    # A batch
    NO_SUCH_BATCH = (
        404,
        "You have no such batch; GET /batches lists yours, and they are kept for {days} days.",
        "Vous n'avez pas de tel lot ; GET /batches donne la liste des vôtres, gardés {days} jours.",
    )
    BATCH_NOT_DONE = (
        409,
        "The batch is {state}: {done} of {rows} rows are done. Ask again later, or with `partial=true` for these.",
        "Le lot est dans l'état {state} : {done} lignes sur {rows}. Redemandez plus tard, ou avec `partial=true`.",
    )
    BATCH_WITHOUT_RESULT = (
        409,
        "The batch is {state} and has no whole result; `partial=true` gives the {done} rows that were done.",
        "Le lot est dans l'état {state} et n'a pas de résultat entier ; `partial=true` donne ses {done} lignes.",
    )
    BATCH_WITHOUT_TABLE = (
        422,
        "Send a table of products in the field `table` (CSV or parquet), or its `location` as JSON.",
        "Envoyez une table de produits dans le champ `table` (CSV ou parquet), ou son `location` en JSON.",
    )
    BATCH_TABLE_KIND = (
        415,
        "The table is a CSV file (its name ends in .csv) or a parquet file (.parquet), the images are a .zip.",
        "La table est un fichier CSV (son nom finit en .csv) ou parquet (.parquet), les images sont un .zip.",
    )
    BATCH_LOCATION = (
        422,
        "A batch may not read this location; upload the table, or ask the administrator to allow its folder.",
        "Un lot ne peut pas lire cet emplacement ; envoyez la table, ou faites autoriser son dossier.",
    )
    TOO_MANY_BATCHES = (
        429,
        "{limit} of your batches are under way, which is the most for your role; cancel one or wait.",
        "{limit} de vos lots sont en cours, le maximum pour votre rôle ; annulez-en un ou attendez.",
    )
    IDEMPOTENCY_KEY_USED = (
        422,
        "This Idempotency-Key was sent with another request; use a new one for each.",
        "Cette Idempotency-Key a déjà servi pour une autre requête ; prenez-en une nouvelle pour chacune.",
    )
    # The service itself
    OVERLOADED = (
        503,
        "There are more requests than can be answered now, try again in {seconds} s.",
        "Il y a plus de requêtes que le service ne peut en traiter, réessayez dans {seconds} s.",
    )
    NOT_READY = (503, "The service is not ready: {reason}.", "Le service n'est pas prêt : {reason}.")
    UNAVAILABLE = (
        503,
        "The service cannot answer now, try again later.",
        "Le service ne peut pas répondre pour l'instant, réessayez plus tard.",
    )
    SIGN_IN_UNAVAILABLE = (
        503,
        "Nobody can sign in now, try again later; whoever has a token goes on.",
        "Personne ne peut se connecter pour l'instant, réessayez plus tard ; un jeton obtenu reste valable.",
    )
    INTERNAL = (
        500,
        "Something went wrong here, not in the request.",
        "Quelque chose s'est mal passé ici, pas dans la requête.",
    )


class Refusal(HTTPException):
    """A request that is refused. `details` fill the sentence, `headers` go out, `members` join the answer.

    (An HTTPException, which FastAPI lets through where it makes a 400 of any other.)
    """

    def __init__(
        self,
        problem: Problem,
        *,
        headers: Mapping[str, str] | None = None,
        members: Mapping[str, object] | None = None,
        **details: object,
    ) -> None:
        super().__init__(problem.status, problem.detail("en", details), dict(headers or {}))
        self.problem = problem
        self.members = dict(members or {})
        self.details = details


TITLES_IN_FRENCH: Mapping[int, str] = {
    400: "Requête incorrecte",
    401: "Authentification requise",
    403: "Accès refusé",
    404: "Introuvable",
    405: "Méthode non autorisée",
    408: "Délai dépassé",
    409: "Conflit",
    413: "Contenu trop volumineux",
    415: "Type de contenu non pris en charge",
    422: "Contenu inutilisable",
    429: "Trop de requêtes",
    500: "Erreur interne",
    503: "Service indisponible",
}


def language_of(accept_language: str) -> Language:
    """The one of our languages that an `Accept-Language` wants most; the first of ours where it wants neither.

    >>> language_of("de, en-GB;q=0.8, fr;q=0.4")
    'en'
    """
    best: Language = LANGUAGES[0]
    weight = 0.0
    for part in accept_language[:500].split(","):
        tag, _, parameter = part.partition(";")
        primary = tag.strip().split("-")[0].lower()
        for language in LANGUAGES:
            if primary == language and _quality(parameter) > weight:
                best, weight = language, _quality(parameter)
    return best


def _quality(parameter: str) -> float:
    name, _, value = parameter.partition("=")
    try:
        return float(value) if name.strip().lower() == "q" else 1.0
    except ValueError:
        return 0.0
