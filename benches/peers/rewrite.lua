function envoy_on_response(handle)
  local body = handle:body()
  local text = body:getBytes(0, body:length())
  text = string.gsub(text, '%-?%d+%.%d+', function(number) return string.format('%.4f', tonumber(number)) end)
  body:setBytes(text)
end
