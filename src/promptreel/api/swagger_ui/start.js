// All that the page does by itself: the rest is Swagger UI, of which VENDORED.json says where it is from.
SwaggerUIBundle({
  url: "openapi.json",
  dom_id: "#swagger-ui",
  deepLinking: true,
  showExtensions: false,
  validatorUrl: null, // it would send the address of this service to a site that checks documents
});
