// Starts Swagger UI; VENDORED.json has its version and source.
SwaggerUIBundle({
  url: "openapi.json",
  dom_id: "#swagger-ui",
  deepLinking: true,
  showExtensions: false,
  validatorUrl: null, // it would send the address of this service to a site that checks documents
});
